"""A row of what ``frcnn doctor`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Status"]

Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that frcnn can use.

    Attributes:
        name: what it is.
        status: ``ok``, ``missing``, or ``broken``: installed and not usable.
        purpose: what frcnn needs it for.
        detail: version, or what is wrong.
        fix: how to get it, or what does in its place; empty where nothing is wanting.
        essential: detection does not work without it.
    """

    name: str
    status: Status
    purpose: str
    detail: str
    fix: str = ""
    essential: bool = False
