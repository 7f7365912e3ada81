"""Weights of a persistent kernel, twice: it reads one set while the other is written.

A message names the set from which on its kernel computes (kernels/recurrent/cuda/recurrent.cu). So nothing is captured, launched
or allocated for an exchange, and no address changes. An order that was not sent yet is taken back before a set is written: the
kernel then reads the other one. One that was sent makes all blocks read its set before they answer. What they read of the other
until then is of no account. Triton's kernels read the message again with the other set. tests/gpu/protocols/weights.py tries
every order of these steps.

Nothing here depends on whether a kernel runs: it may be started by a call at any time. Until a message gives the order, the set
that is not written is the one with which a kernel starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError

if TYPE_CHECKING:
    from rtaccel._native import Mailbox

RENEW, SECOND = 16, 32
"""Commands of a message, as kernels/recurrent/cuda/recurrent.cu has them."""

Packed = Mapping[str, Tensor]
"""Tensors of one set, in host memory, by the names of the kernel's arguments."""


def same_numbers(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises FormatError where a running kernel has other static scales than those that come with weights."""
    if dict(found) != dict(own):
        raise FormatError(
            "swap", f"{found}", f"the static scales of the running kernel, {own}", "Calibrate both on the same data."
        )


class WeightSets:
    """tensors: name -> [2, ...] on the device. The first set holds `packed`."""

    def __init__(self, packed: Packed, device: str) -> None:
        self.tensors = {name: torch.stack((t, t)).to(device) for name, t in packed.items()}
        self._staging = (
            {name: torch.empty_like(t).pin_memory() for name, t in packed.items()} if device == "cuda" else {}
        )
        self._held: list[Packed | None] = [packed, None]
        self._used = self._ordered = 0
        self._lock = threading.Lock()

    @property
    def latest(self) -> Packed:
        """Those of the next call."""
        found = self._held[self._ordered]
        assert found is not None
        return found

    def at_start(self, box: Mailbox) -> int:
        """The set that a kernel begins with. An order that was not sent stays one."""
        with self._lock:
            if not box.command & RENEW:
                self._used = self._ordered
            return self._used

    def exchange(self, packed: Packed, box: Mailbox, copying: Callable[[Callable[[], None]], None]) -> None:
        """The next call is made with these. copying: runs copies to the device beside the kernel, and waits for them."""
        with self._lock:
            if box.withdraw(RENEW | SECOND):
                self._ordered = self._used
            else:
                self._used = self._ordered
            if self._held[self._used] is packed:
                return
            spare = 1 - self._used
            if self._held[spare] is not packed:
                self._held[spare] = None
                copying(lambda: self._write(spare, packed))
                self._held[spare] = packed
            self._ordered = spare
            box.order(RENEW | (SECOND if spare else 0))

    def _write(self, which: int, packed: Packed) -> None:
        for name, tensor in packed.items():
            source = self._staging[name].copy_(tensor) if self._staging else tensor
            self.tensors[name][which].copy_(source, non_blocking=True)
