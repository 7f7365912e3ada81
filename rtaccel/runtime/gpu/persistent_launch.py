"""The launch of a persistent kernel: its code loaded ahead, and its device memory as it was at first, whenever it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rtaccel.kernels._gpu.triton_launch import Launch


class PersistentLaunch:
    """launch(requests, replies, control): starts the kernel on the current stream, does not wait.

    kept: what must live as long as the kernel. written: tensors of the device with numbers of messages, which it writes; a start
    finds them as they are now. Copies do that, not kernels of torch, whose code might have to be loaded.
    """

    def __init__(
        self, kernel: Launch, programs: int, arguments: Callable[[Tensor, Tensor, Tensor], dict[str, Any]], kept: Any,
        written: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        self._kernel, self._grid, self._arguments, self.kept = kernel, (programs,), arguments, kept
        self._written = [(t, t.cpu().clone()) for t in written]

    def load(self, requests: Tensor, replies: Tensor, control: Tensor) -> None:
        self._kernel.load(self._grid, **self._arguments(requests, replies, control))

    def __call__(self, requests: Tensor, replies: Tensor, control: Tensor) -> None:
        for tensor, at_first in self._written:
            tensor.copy_(at_first)
        self._kernel(self._grid, **self._arguments(requests, replies, control))
