"""An array that has DLPack and no other protocol."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class DLPackOnly:
    """A tensor without ``__cuda_array_interface__``."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()
