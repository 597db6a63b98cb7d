"""A memory plan: tensors that are never needed at the same time share memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from frcnn.plugins.operator_plan import aligned


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that is needed from step ``first`` to step ``last``, both included."""

    name: str
    size_bytes: int
    first: int
    last: int


def lay_out(blocks: Iterable[Block]) -> tuple[dict[str, int], int]:
    """Place blocks so that those needed at the same step do not overlap; return their offsets and the total bytes.

    The largest is placed first, each at the lowest offset that is free while it is needed ("greedy by size",
    arXiv:2001.03288). A convolutional network comes within a few percent of its largest step.
    """
    placed: list[tuple[int, int, Block]] = []
    for block in sorted(blocks, key=lambda block: (-block.size_bytes, block.first, block.name)):
        size, offset = aligned(block.size_bytes), 0
        for start, end, other in sorted(placed, key=lambda entry: entry[0]):
            if other.last < block.first or block.last < other.first or end <= offset:
                continue
            if offset + size <= start:
                break
            offset = end
        placed.append((offset, offset + size, block))
    return {block.name: start for start, _, block in placed}, max((end for _, end, _ in placed), default=0)
