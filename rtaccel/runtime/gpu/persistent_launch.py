"""The launch of a persistent kernel: its code loaded ahead, and its device memory as it was at first, whenever it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rtaccel.kernels._gpu.triton_launch import Launch

if TYPE_CHECKING:
    from rtaccel.runtime.gpu.persistent_networks import Network


@dataclass(frozen=True)
class Rounding:
    """x * inverse, rounded, plus zero_point: as int8 in a message."""

    inverse: float
    zero_point: int


def message_words(network: Network) -> int:
    """Of x in a message, without the command: one for each number, or for four of int8."""
    return network.inputs if network.rounding is None else -(-network.inputs // 4)


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
