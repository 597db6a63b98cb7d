"""Damage bytes as accidents and attackers do; the same random generator gives the same damage."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

_LONGEST: Final = 1 << 16
_EXTREMES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1)

_CHANGES: Final = ("bit", "byte", "cut", "remove", "repeat", "move", "number", "digits", "token", "token")


def mutated(rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return one of the seeds, changed in one to eight places, with tokens of the format put anywhere."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _change(rng, data, tokens)
        if not data:
            break
    return bytes(data[:_LONGEST])


def _change(rng: random.Random, data: bytearray, tokens: Sequence[bytes]) -> None:
    begin = rng.randrange(len(data))
    match rng.choice(_CHANGES):
        case "bit":
            data[begin] ^= 1 << rng.randrange(8)
        case "byte":
            data[begin] = rng.randrange(256)
        case "cut":
            del data[begin:]
        case "remove":
            del data[begin : begin + rng.choice((1, 2, 4, 16, 64))]
        case "repeat":
            piece = data[begin : begin + rng.choice((1, 2, 8, 64, 512))]
            data[begin:begin] = piece * rng.choice((1, 2, 16, 64))
        case "move":
            to, piece = rng.randrange(len(data)), data[begin : begin + rng.choice((4, 16, 64))]
            data[to : to + len(piece)] = piece
        case "number":  # an extreme integer in either byte order, as sizes and offsets in files are
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_EXTREMES) & ((1 << (8 * width)) - 1)
            data[begin : begin + width] = value.to_bytes(width, rng.choice(("little", "big")))
        case "digits":  # an absurd decimal number in the place of one, as text formats have them
            if numbers := list(re.finditer(rb"[0-9]+", data)):
                begin, end = rng.choice(numbers).span()
                absurd = (b"0", b"-1", b"1e400", b"NaN", b"9" * 40, b"1.5", b"null", b"2147483648", b"[]")
                data[begin:end] = rng.choice(absurd)
        case "token" if tokens:
            begin, token = rng.randrange(len(data) + 1), rng.choice(tokens)
            data[begin : begin + rng.choice((0, len(token)))] = token
