"""Damage bytes as accidents and attackers do; the same random generator gives the same damage."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

_LONGEST: Final = 1 << 16
_EXTREMES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1)

Change = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutated(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return one of the seeds, changed in one to eight places, with tokens of the format put anywhere."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        change = rng.choice(_CHANGES)
        change(rng, data, tokens)
        if not data:
            break
    return bytes(data[:_LONGEST])


def _flip_bit(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _any_byte(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _truncate(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.choice((1, 2, 4, 16, 64))]


def _repeat(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    begin = rng.randrange(len(data))
    piece = data[begin : begin + rng.choice((1, 2, 8, 64, 512))]
    data[begin:begin] = piece * rng.choice((1, 2, 16, 64))


def _move(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    begin, to = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[begin : begin + rng.choice((4, 16, 64))]
    data[to : to + len(piece)] = piece


def _number(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    """Put an extreme integer anywhere, in either byte order, as sizes and offsets in files are."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_EXTREMES) & ((1 << (8 * width)) - 1)
    begin = rng.randrange(len(data))
    data[begin : begin + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _digits(rng: random.Random, data: bytearray, _tokens: Sequence[bytes]) -> None:
    """Replace a decimal number, as text formats have them, by an absurd one."""
    begins = [i for i in range(len(data)) if data[i : i + 1].isdigit() and (i == 0 or not data[i - 1 : i].isdigit())]
    if begins:
        begin = end = rng.choice(begins)
        while end < len(data) and data[end : end + 1].isdigit():
            end += 1
        data[begin:end] = rng.choice((b"0", b"-1", b"1e400", b"NaN", b"9" * 40, b"1.5", b"null", b"2147483648", b"[]"))


def _token(rng: random.Random, data: bytearray, tokens: Sequence[bytes]) -> None:
    if tokens:
        begin = rng.randrange(len(data) + 1)
        token = rng.choice(tokens)
        data[begin : begin + rng.choice((0, len(token)))] = token


_CHANGES: Final[tuple[Change, ...]] = (
    _flip_bit,
    _any_byte,
    _truncate,
    _remove,
    _repeat,
    _move,
    _number,
    _digits,
    _token,
    _token,
)
