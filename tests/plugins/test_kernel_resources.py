"""Every kernel source is built for every architecture, without spills, and keeps within what a block may take."""

from __future__ import annotations

import pytest

from frcnn.benchmarks.kernel_forms import ARCHITECTURES, every_kernel
from frcnn.plugins.compiler import resource_usage
from frcnn.plugins.kernel import KERNEL_FOLDER, Kernel

MOST_SHARED_BYTES = 48 * 1024  # of a block that does not ask for more
REGISTERS = 65_536  # of a multiprocessor
HOPPER = "sm_90"
ALL = every_kernel()
# one form of each source on every architecture, every form on one
ONE_OF_EACH = {kernel.source: label for label, kernel in reversed(ALL.items())}


def check(kernel: Kernel, architecture: str, record) -> None:
    found = resource_usage(kernel, architecture)
    record(f"{kernel.entry} {architecture}", str(found))
    assert (found.spill_bytes, found.stack_bytes) == (0, 0)
    assert found.shared_bytes <= MOST_SHARED_BYTES
    threads = kernel.block[0] * kernel.block[1] * kernel.block[2]
    assert found.registers * threads <= REGISTERS


def test_every_source_is_among_them():
    sources = {str(file.relative_to(KERNEL_FOLDER.resolve())) for file in KERNEL_FOLDER.resolve().rglob("*.cu")}
    assert set(ONE_OF_EACH) == sources


@pytest.mark.parametrize("label", list(ALL))
def test_every_form_of_every_kernel(label, record_property):
    check(ALL[label], HOPPER, record_property)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != HOPPER])
@pytest.mark.parametrize("source", sorted(ONE_OF_EACH))
def test_every_source_on_every_architecture(source, architecture, record_property):
    check(ALL[ONE_OF_EACH[source]], architecture, record_property)
