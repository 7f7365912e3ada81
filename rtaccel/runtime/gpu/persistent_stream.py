"""A stream whose states stay with a persistent kernel: it gives and takes them by messages, or they lie in device memory between
two runs of it."""

from __future__ import annotations

import time

import torch

from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.gpu.persistent import PersistentPlan
from rtaccel.runtime.state.native_past import of_stream, with_stream

STATES_S = 30.0
"""For the kernel to give its states."""

RESET, SAVE, LOAD, SPOILED = 1, 2, 4, 8
"""Commands of a message, as kernels/recurrent/cuda/recurrent.cu has them; those in Triton know the first. Those of weights:
persistent_weights.py."""


class PersistentStream(PersistentPlan):
    """A network whose states stay with its kernel: a call is a time step of one stream."""

    _kept: bytes | None = None
    """The states while the kernel does not run; None where it starts anew."""

    @property
    def _resting(self) -> AtRest | None:
        return self._network.at_rest

    @property
    def saves_as_native(self) -> bool:
        """Whether `save_state` gives the bytes of a native plan of the same program."""
        return self._resting is not None

    def _started(self) -> None:
        anew = bool(self._kernel.box.command & RESET)
        if self._resting is not None:
            self._resting.write(None if anew else self._kept, self._card.copying)
        super()._started()
        kept, self._kept = self._kept, None
        if kept is not None and not anew and self._resting is None:
            self._load(kept)

    def suspend(self) -> None:
        """Ends the kernel, and keeps the states."""
        if self._kernel.running:
            self._kept = self.save_state()
        super().suspend()

    def reset(self, first: int, count: int) -> None:
        """With the next time step: its message says so. A stream has one sample, `first` 0 and `count` 1. While a kernel starts
        it waits: a message that loads the states would take the order with it."""
        with self._starting:
            self._kernel.box.order(RESET)

    def save_state(self) -> bytes:
        """Of a recurrent stack in CUDA C++, float32 h of all layers, then c of an LSTM; NaN where the stream is corrupted. Of
        other streams what a native plan saves.

        Asks a running kernel, or ends it where the past lies in device memory: the next call starts it again. So it raises
        BackendUnavailable where the kernel does not answer or end, and once the model is closed.
        """
        past = self._network.past
        if self._closed is not None:
            self.start()  # which says why not
        if self._resting is not None:
            return self._at_rest(self._resting)
        assert past is not None
        zeros = bytes(4 * past.numel())
        if (
            self._kernel.box.command & RESET
        ):  # the states are what they were until the next step, and zero from there on
            return zeros
        if not self._kernel.running:
            return self._kept if self._kept is not None else zeros
        number = self._message(SAVE)
        until = time.monotonic() + STATES_S
        while not bool((past >> 32 == number).all()):
            if time.monotonic() > until:
                self._fail("its states", "the kernel did not give them")
        return past.view(torch.int32)[::2].numpy().tobytes()  # the lower half of every word

    def _at_rest(self, resting: AtRest) -> bytes:
        """What `resting` has when the kernel has ended."""
        if self._kernel.box.command & RESET:
            return resting.empty()
        if self._kernel.running:
            number = self._kernel.box.number
            self._kernel.end()
            if self._kernel.lost:
                self._fail("a kernel that ends", "the kernel did not end")
            self._kept = resting.read(number, self._card.copying)
        return resting.empty() if self._kept is None else self._kept

    @property
    def state_rows(self) -> int:
        """Rows of `save_state`, one for each layer and kind of state."""
        assert self._network.past is not None
        return self._network.past.numel() // int(self._network.stages[0].attrs["hidden"])

    def load_state(self, state: bytes) -> None:
        """What `save_state` gave. Raises ValueError for other bytes where they lie in device memory."""
        if self._resting is not None:
            self._resting.check(state)
            self._kernel.end()
        self._kernel.box.withdraw(RESET)
        if self._kernel.running:
            self._load(state)
        else:
            self._kept = bytes(state)

    def save_stream(self, stream: int) -> bytes:
        """That of the only one; in the bytes of a native plan where the past lies in device memory."""
        state = self.save_state()
        return state if self._resting is None else of_stream(state)

    def load_stream(self, stream: int, state: bytes) -> None:
        """Raises ValueError for what `save_stream` did not give."""
        if self._resting is not None:
            self.load_state(with_stream(state))
            return
        assert self._network.past is not None
        words = self._network.past.numel()
        if len(state) != 4 * words:
            raise ValueError(f"{4 * words} expected")
        self.load_state(state)

    def _load(self, state: bytes) -> None:
        past = self._network.past
        assert past is not None
        states = torch.frombuffer(bytearray(state), dtype=torch.float32)
        nonfinite = 0 if bool(torch.isfinite(states).all()) else SPOILED
        payload = states.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        past.copy_(payload | _signed(self._kernel.box.number + 1) << 32)
        self._message(LOAD | nonfinite)

    def _message(self, command: int) -> int:
        """A message that is no time step; gives its number, as the upper half of a signed word holds it."""
        x, y = torch.zeros(self._network.inputs), torch.empty(self._network.outputs)
        self._kernel.box.order(command)
        self._ask(x.data_ptr(), y.data_ptr())
        return _signed(self._kernel.box.number)


def _signed(number: int) -> int:
    """A number of a message as the upper half of an int64."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >= 1 << 31 else number
