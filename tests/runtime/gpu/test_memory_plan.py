"""frcnn.runtime.gpu.pipeline: nothing overlaps while it is needed, and what can share memory does."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from frcnn.plugins.operator_plan import ALIGNMENT_BYTES, aligned
from frcnn.runtime.gpu.pipeline import Block, lay_out

BLOCKS = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6)).map(
        lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    max_size=25,
)


@given(BLOCKS)
def test_blocks_needed_together_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    blocks = [Block(str(i), *entry) for i, entry in enumerate(drawn)]
    offsets, total = lay_out(blocks)
    assert set(offsets) == {block.name for block in blocks}
    for block in blocks:
        assert offsets[block.name] % ALIGNMENT_BYTES == 0
        assert offsets[block.name] + block.size_bytes <= total
    for a, b in combinations(blocks, 2):
        if a.first <= b.last and b.first <= a.last and a.size_bytes and b.size_bytes:
            low, high = sorted((a, b), key=lambda block: offsets[block.name])
            assert offsets[low.name] + low.size_bytes <= offsets[high.name]


@given(BLOCKS)
def test_the_total_is_between_the_largest_step_and_the_sum(drawn: list[tuple[int, int, int]]) -> None:
    blocks = [Block(str(i), *entry) for i, entry in enumerate(drawn)]
    _, total = lay_out(blocks)
    assert total <= sum(aligned(block.size_bytes) for block in blocks)
    for step in range(20):
        assert total >= sum(aligned(b.size_bytes) for b in blocks if b.first <= step <= b.last)


def test_a_chain_takes_no_more_than_its_largest_pair() -> None:
    sizes = [1000, 4000, 4000, 2000, 500]
    blocks = [Block(str(i), size, i, i + 1) for i, size in enumerate(sizes)]
    assert lay_out(blocks)[1] == aligned(4000) * 2


def test_an_empty_plan_needs_no_memory() -> None:
    assert lay_out([]) == ({}, 0)
