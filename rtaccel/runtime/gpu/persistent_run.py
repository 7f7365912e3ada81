"""A persistent kernel from its code loaded to its end: it can be started and ended again and again.

The host's memory of it lives here, so that it is left alone where the kernel does not end.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from typing import TYPE_CHECKING

from rtaccel.backends import cuda_persistent
from rtaccel.backends.cuda_errors import dead, translated
from rtaccel.core.errors import BackendUnavailable, RtaccelError
from rtaccel.runtime.gpu.persistent_device import PersistentDevice, Running
from rtaccel.runtime.gpu.persistent_launch import message_words
from rtaccel.runtime.gpu.persistent_networks import Network

if TYPE_CHECKING:
    from rtaccel._native import Mailbox

ABORT, STATE, LOOKS = 0, 1, 2
"""Words of the control block, as kernels/_persistent/triton_mailbox.py has them."""

STATES = {0: "it has not started", 1: "it runs", 2: "it was asked to end", 3: "it ended, as nobody called for long"}
CONTROL_WORDS = 8
END = 1 << 16
"""Command of the last message, where a kernel ends by one: kEnd of kernels/_persistent/cuda_poll.h."""

START_S = 30.0
END_S = 5.0


_runs: weakref.WeakSet[KernelRun] = weakref.WeakSet()


def _forked() -> None:
    for run in list(_runs):
        run.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


class KernelRun:
    """Raises BackendUnavailable where the device has no room for the kernel beside others that stay."""

    def __init__(self, network: Network, device: PersistentDevice) -> None:
        self.name, self._device, self._programs = network.line().what, device, network.programs
        self._seat: cuda_persistent.Seat | None = self._reserved()
        self._running: Running | None = None
        self._closed = self._forked = False
        self._lost, self._ends_by_message = False, network.ends_by_message
        try:
            words = message_words(network) + network.commands
            self._requests, self._replies = device.requests(2 * words), device.mailbox(2 * network.outputs)
            self._control = device.mailbox(CONTROL_WORDS)
            if network.states:
                network.past = device.mailbox(network.states)
            self._loaded = device.load(network, self._requests.card, self._replies, self._control)
        except BaseException:
            self._give_up_seat()
            raise
        self.box = self._mailbox(network)
        _runs.add(self)

    def _reserved(self) -> cuda_persistent.Seat:
        device = self._device
        return cuda_persistent.reserve(device.index, self.name, self._programs, device.multiprocessors())

    def _give_up_seat(self) -> None:
        if self._seat is not None:
            self._seat.release()
        self._seat = None

    def _mailbox(self, network: Network) -> Mailbox:
        from rtaccel._native import Mailbox

        mapped, rounding = self._requests.mapped is not None, network.rounding
        sides = (self._requests.host.data_ptr(), message_words(network), self._replies.data_ptr(), network.outputs)
        factors = [] if network.factors is None else network.factors.tolist()
        if rounding is None:
            return Mailbox(*sides, network.commands, mapped, factors=factors)
        form = (network.inputs, rounding.inverse, rounding.zero_point)
        return Mailbox(*sides, network.commands, mapped, *form, factors)

    @property
    def control(self) -> int:
        """The address of its control block, the same for every start."""
        return self._control.data_ptr()

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def lost(self) -> bool:
        """Whether it did not end when it was told to."""
        return self._lost

    def start(self) -> None:
        """Raises BackendUnavailable where there is no room any more, or it does not start in time; nothing of it is left then."""
        if self._forked:
            raise BackendUnavailable(
                "persistent", f"{self.name} of the process that forked this one", "a kernel of this process",
                "Start processes by spawn, and compile the model in them.",
            )  # fmt: skip
        if self._lost:
            raise BackendUnavailable(
                "persistent", f"{self.name}, whose kernel did not end when it was told to",
                "memory that no kernel uses", "Compile the model again, or start a new process.",
            )  # fmt: skip
        self._seat = self._seat or self._reserved()
        self.box.restart()  # the same one: bound calls go on with it
        self._requests.clear()
        for words in (self._replies, self._control):
            words.zero_()
        memory = (self._requests.card, self._replies, self._control)
        try:
            self._running = cuda_persistent.within(
                START_S, "persistent", f"starting {self.name}", lambda: self._device.start(self._loaded, *memory)
            )
        except RtaccelError:
            if dead() is None:  # it was refused, and nothing runs
                self._give_up_seat()
            else:
                self._leave_alone()
            raise
        self._seat.running = True
        until = time.monotonic() + START_S
        while int(self._control[STATE]) == 0 and time.monotonic() < until and not self.finished():
            time.sleep(0.001)
        if int(self._control[STATE]) != 1:
            self.fail("a persistent kernel that starts", "the kernel did not start")

    def finished(self) -> bool:
        """Whether it is not there. A fault of it marks the backend dead, and is raised as BackendUnavailable."""
        if self._running is None:
            return True
        with translated("persistent"):
            return self._running.finished()

    def end(self) -> None:
        """Sets the abort word, waits for some seconds at most, and gives its multiprocessors to others. A kernel that does not
        move holds up nobody, but what it has is never given to anybody else."""
        if self._running is None:
            return
        self._control[ABORT] = 1
        if self._ends_by_message:
            self.box.last(END)
        until = time.monotonic() + END_S
        gone = False
        with contextlib.suppress(RtaccelError):  # of a fault was said where it was seen
            while not (gone := self.finished()) and time.monotonic() < until:
                time.sleep(0.0005)
        self._running = None
        if gone:
            self._give_up_seat()
        else:
            self._leave_alone()

    def forked(self) -> None:
        """In a child: the kernel answers the parent, and its memory is the parent's."""
        self._running, self._seat = None, None
        self._lost = self._forked = True

    def _leave_alone(self) -> None:
        """Its multiprocessors and its memory stay taken until the process ends."""
        cuda_persistent.leave_alone(self._loaded, self._requests, self._replies, self._control)
        self._seat, self._lost = None, True

    def close(self) -> None:
        """Ends it, and gives its place to others."""
        self.end()
        self._give_up_seat()
        if not self._lost and not self._closed:
            self._requests.give_back()
        self._closed = True

    def seen(self) -> str:
        """What the kernel was seen doing."""
        looks = int(self._control[LOOKS])
        time.sleep(0.01)
        return f"{self.state}, {'it still looks for messages' if int(self._control[LOOKS]) != looks else 'it does not move'}"

    def fail(self, expected: str, what: str) -> None:
        """Ends the kernel, so that nothing of it is left, and raises."""
        what = f"{what}; {self.seen()}"
        with contextlib.suppress(BackendUnavailable):
            self.finished()  # a fault marks the backend dead
        self.end()
        raise BackendUnavailable("persistent", what, expected, "Compile the model again, or use mode='graph'.")

    @property
    def state(self) -> str:
        return STATES.get(int(self._control[STATE]), "?")
