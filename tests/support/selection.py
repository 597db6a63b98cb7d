"""What ``make check`` leaves to ``make test``: every test that exports, and those marked as slow.

A pytest plugin: ``pytest -p support.selection -m "not slow ..."``. Tests that take a fixture of shared exports are left
out by its name. A test that exports by itself is marked ``slow``; here it fails if it is not, so that the selection
stays true as tests are added.
"""

from __future__ import annotations

from typing import Any

import pytest

SHARED_EXPORTS = {"exports", "tiny_model"}


def pytest_configure() -> None:
    """Let no test of the selection export."""
    import torch  # after tests/conftest.py, which sets the folders that torch looks for when it is imported

    def export(*args: Any, **kwargs: Any) -> None:
        pytest.fail(f"this test exports: take a fixture of {sorted(SHARED_EXPORTS)}, or mark it slow", pytrace=False)

    torch.onnx.export = export


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes a fixture of shared exports, itself or through another fixture."""
    exporting, kept = [], []
    for item in items:
        (kept if SHARED_EXPORTS.isdisjoint(getattr(item, "fixturenames", ())) else exporting).append(item)
    config.hook.pytest_deselected(items=exporting)
    items[:] = kept
