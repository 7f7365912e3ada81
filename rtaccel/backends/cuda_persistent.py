"""Which persistent kernels hold the GPU of this process, and what must not be done beside them.

A persistent kernel ends when it is told to. So whatever waits for the whole device waits for ever: loading code (the driver waits
for the device before it does), a start beside kernels that leave no room, `torch.cuda.synchronize()`. What this library does
is refused here, before it is begun.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rtaccel.backends import cuda_driver
from rtaccel.backends.cuda_errors import NEXT, mark_dead
from rtaccel.core.errors import BackendUnavailable

T = TypeVar("T")

LOAD_S = 60.0
"""For the driver to load code onto the card, once it is compiled."""

_lock = threading.Lock()
_seats: list[Seat] = []
_left_alone: list[Any] = []


class Seat:
    """The part of a device that one kernel is promised, from when its code is loaded until it has ended.

    programs: of the kernel; each is taken to fill a multiprocessor. running: whether it was started and has not ended.
    """

    def __init__(self, device: int, name: str, programs: int) -> None:
        self.device, self.name, self.programs, self.running = device, name, programs, False

    def release(self) -> None:
        self.running = False
        with _lock:
            if self in _seats:
                _seats.remove(self)


def reserve(device: int, name: str, programs: int, multiprocessors: int) -> Seat:
    """A seat beside those that are taken. Raises BackendUnavailable where the device has no room, or no queue, for one more."""
    with _lock:
        taken = [seat for seat in _seats if seat.device == device]
        used, queues = sum(seat.programs for seat in taken), cuda_driver.connections()
        if used + programs > multiprocessors:
            others = ", ".join(f"{seat.name} ({seat.programs})" for seat in taken) or "none"
            raise BackendUnavailable(
                "persistent", f"{name}, {programs} multiprocessors",
                f"at most {multiprocessors - used} of {multiprocessors}, as persistent kernels have the others ({others})",
                "close() one of those, or use mode='graph'.",
            )  # fmt: skip
        if len(taken) + 2 > queues:  # one more, and one queue for everything else
            raise BackendUnavailable(
                "persistent", f"{name} beside {len(taken)} persistent kernels",
                f"fewer than the {queues} hardware queues, of which other work needs one",
                f"Set {cuda_driver.CONNECTIONS}=32 before Python starts.",
            )  # fmt: skip
        seat = Seat(device, name, programs)
        _seats.append(seat)
        return seat


def taken(device: int) -> int:
    """Multiprocessors that persistent kernels are promised."""
    with _lock:
        return sum(seat.programs for seat in _seats if seat.device == device)


def running() -> list[str]:
    """Names of the persistent kernels that run now."""
    return [seat.name for seat in _seats if seat.running] if _seats else []


def refuse_loading(op: str, what: str) -> None:
    """Raises BackendUnavailable where a persistent kernel runs, as loading `what` would wait until it ends."""
    names = running()
    if names:
        raise BackendUnavailable(
            op, f"{what}, which is not loaded yet, while {', '.join(names)} runs",
            "code that was loaded before a persistent kernel started: CUDA waits for the device to load it",
            "Compile all models before the first call of a persistent one, or close() or suspend() that first.",
        )  # fmt: skip


def refuse_capture(op: str) -> None:
    """Raises BackendUnavailable where a persistent kernel runs and CUDA loads code when it is first used, as a capture may."""
    if running() and not cuda_driver.driver().loads_eagerly():
        raise BackendUnavailable(
            op, f"a graph captured while {', '.join(running())} runs",
            f"{cuda_driver.MODULE_LOADING}=EAGER: else CUDA loads code when it is first used, and waits for the device",
            "Bind before the first call of the persistent model, or set it before Python starts.",
        )  # fmt: skip


def leave_alone(*memory: Any) -> None:
    """Keeps memory until the process ends: a kernel that did not end may still read and write it."""
    _left_alone.append(memory)


def left_alone() -> int:
    """How many kernels did not end when they were told to."""
    return len(_left_alone)


def within(seconds: float, op: str, what: str, work: Callable[[], T]) -> T:
    """work(), in a thread of its own with a deadline. Past it the GPU is given up for this process: a CUDA call that does not
    return cannot be taken back. Raises BackendUnavailable then, and what `work` raises."""
    import torch

    done: list[T] = []
    failed: list[BaseException] = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def run() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)  # a thread begins on the first
            done.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"rtaccel {op}")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        mark_dead(f"{what} did not return in {seconds:g} s")
        raise BackendUnavailable(op, f"{what}, for {seconds:g} s", "a CUDA call that returns", NEXT)
    if failed:
        raise failed[0]
    return done[0]
