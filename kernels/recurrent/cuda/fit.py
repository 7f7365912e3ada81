"""Which cut of a window fits a card: a cluster where the device has room for it, else one multiprocessor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from rtaccel.core import settings
from rtaccel.kernels._gpu import cuda_launch, triton_launch
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels._persistent.card import Card, card
from rtaccel.kernels.recurrent.cuda.config import C

_left_out: list[bool] = []


@contextmanager
def without() -> Iterator[None]:
    """Windows that are chosen inside are none of CUDA C++: for measuring one beside the other."""
    _left_out.append(True)
    try:
        yield
    finally:
        _left_out.pop()


def fitted(fit: Callable[[Card], C | None], kernel: Callable[[C], CudaKernel], what: str) -> tuple[C | None, str]:
    """The cut of the card that is here, or None and why there is none. what: it keeps on the chip."""
    if _left_out:
        return None, "is left out here"
    if settings.triton_interpret():
        return None, "is compiled, and here kernels are interpreted"
    of = card()
    found = fit(of)
    if found is not None and found.parts > 1 and not _has_room(kernel(found)):
        alone = fit(replace(of, has_clusters=False))
        if alone is None:
            return None, f"is a cluster of {found.parts} programs, for which this device has no room"
        found = alone
    if found is None:
        most = max(of.cluster, 1)
        return None, f"keeps {what} on the chip of one multiprocessor or of a cluster of up to {most}"
    return found, ""


def _has_room(kernel: CudaKernel) -> bool:
    """Where no card is seen it is not known, and taken for granted."""
    if cuda_launch.unavailable(kernel) is not None:
        return True  # which is said behind it
    if not (triton_launch.is_recording() or torch.cuda.is_available()):
        return True
    return cuda_launch.has_room(kernel)
