"""The persistent path: a persistent kernel on the GPU, a mailbox in pinned host memory, and the host's side of both.

A call writes x into the mailbox and spins, in the native core and without the GIL, until y is there: no launch, no copy, no
CUDA call. The kernel is compiled and loaded with the model. It starts at the first call, or when the model is bound or sealed,
and holds its multiprocessors, one for every program, until `suspend()` or `close()`.

While it runs, CUDA calls that wait for the whole device never return: torch.cuda.synchronize(), freeing memory with
empty_cache(), loading code. What this library would do of that is refused (backends/cuda_persistent.py). Streams and events of
other work are not touched.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.batch import only
from rtaccel.core.errors import BackendUnavailable, ShapeError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Persistent
from rtaccel.plan.explain import Line
from rtaccel.plan.fuse import fuse
from rtaccel.plan.group import Subgraph
from rtaccel.runtime.gpu.graph import DevicePlan
from rtaccel.runtime.gpu.persistent_device import PersistentDevice, persistent_device
from rtaccel.runtime.gpu.persistent_networks import Network, network_of
from rtaccel.runtime.gpu.persistent_run import KernelRun
from rtaccel.runtime.gpu.persistent_weights import RENEW, Packed, WeightSets

TIMEOUT_NS = 1_000_000_000
STATES_S = 30.0
"""For the kernel to give its states."""

RESET, SAVE, LOAD, SPOILED = 1, 2, 4, 8
"""Commands of a message, as kernels/recurrent/cuda/recurrent.cu has them; those in Triton know the first. Those of weights:
persistent_weights.py."""


class PersistentPlan(DevicePlan):
    """A network on a persistent kernel. Tensors are the host's: x [1, K] and y [1, N], float32.

    Raises BackendUnavailable where the device does not let it stay, or has no room for it.
    """

    def __init__(self, group: Subgraph, network: Network, device: PersistentDevice) -> None:
        super().__init__(group, [], only(1), "cpu")
        reason = device.unsuitable()
        if reason is not None:
            raise BackendUnavailable(
                "compile", "mode='persistent'", f"a GPU on which a kernel may stay ({reason})",
                "Use mode='graph', or mend what stands in the way.",
            )  # fmt: skip
        self._network, self._card = network, device
        self._kernel = KernelRun(network, device)
        self._closed: str | None = None
        # At exit, too: a process whose kernel never ends would not end.
        self._finalizer = weakref.finalize(self, self._kernel.close)

    def start(self) -> None:
        """Starts the kernel, where it does not run. Raises BackendUnavailable where it cannot."""
        if self._closed is not None:
            raise BackendUnavailable("persistent", self._closed, "a running kernel", "Compile the model again.")
        if not self._kernel.running:
            self._started()

    def _started(self) -> None:
        sets = self._network.sets
        if sets is not None:
            self._network.second = sets.at_start(self._kernel.box)
        self._kernel.start()

    def _fail(self, expected: str, what: str) -> None:
        """Ends the kernel for good, and raises."""
        try:
            self._kernel.fail(expected, what)
        except BackendUnavailable as error:
            self._closed = str(error.got)
            self._kernel.close()
            raise

    def _ask(self, x: int, y: int) -> None:
        if not self._kernel.running:
            self.start()
        if not self._kernel.box.exchange(x, y, TIMEOUT_NS):
            self._unanswered()

    def _unanswered(self) -> None:
        self._fail("an answer", f"no answer in {TIMEOUT_NS / 1e9:g} s")

    # -- calling ---------------------------------------------------------------------------------------------------

    def call(self, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if not self._fits(inputs, self._group.inputs):
            return None
        port = self._group.outputs[0]
        y = torch.empty((*inputs[0].shape[: self._group.inputs[0].lead], *port.trailing))
        self._ask(inputs[0].data_ptr(), y.data_ptr())
        return y

    call_flat = call

    def run(self, inputs: tuple[Tensor, ...], outputs: Tensor | tuple[Tensor, ...]) -> bool:
        outs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if not self._fits(inputs, self._group.inputs) or not self._fits(outs, self._group.outputs):
            return False
        if inputs[0].shape[: self._group.inputs[0].lead] != outs[0].shape[: self._group.outputs[0].lead]:
            return False
        self._ask(inputs[0].data_ptr(), outs[0].data_ptr())
        return True

    def bind(self, inputs: Any, out: Any) -> Callable[[], None] | None:
        given, outs = tuple(pytree.tree_leaves(inputs)), tuple(pytree.tree_leaves(out))
        if not self._fits(given, self._group.inputs) or not self._fits(outs, self._group.outputs):
            return None
        self.start()
        from rtaccel._native import MailboxStep
        from rtaccel.kernels._core.cpu import connect

        addresses = (given[0].data_ptr(), outs[0].data_ptr())

        def otherwise(what: str) -> None:
            """What a step does that finds no kernel to answer it, or gets no answer; "ended" means that nothing was sent."""
            if what == "moved":
                raise ShapeError(
                    "bound call", "a tensor whose memory is not what was bound", "the memory that was bound",
                    "Bind again: its storage was freed, resized or replaced.",
                )  # fmt: skip
            if what == "ended":
                self._ask(*addresses)  # starts it again
            else:
                self._unanswered()

        connect()
        try:
            return MailboxStep(self._kernel.box, given[0], outs[0], self._kernel.control, TIMEOUT_NS, otherwise)
        except ValueError:
            return None

    # -- other weights ---------------------------------------------------------------------------------------------

    @property
    def weights(self) -> WeightSets | None:
        """Those that a message can exchange; None where the kernel has them for good."""
        return self._network.sets

    @property
    def pending(self) -> bool:
        """Whether other weights wait for the next call."""
        return bool(self._kernel.box.command & RENEW)

    def packed(self, group: Subgraph) -> Packed:
        """Weights of another group of the same structure, as the kernel reads them."""
        return self._network.packed(fused(group))

    def exchange(self, packed: Packed) -> None:
        """The next call is made with these, from any thread."""
        sets = self._network.sets
        assert sets is not None
        sets.exchange(packed, self._kernel.box, self._kernel.running, self._card.copying)

    # -- ending ----------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        self.start()

    def suspend(self) -> None:
        """Ends the kernel. Its code stays loaded, and the next call starts it again."""
        self._kernel.end()

    def close(self) -> None:
        """Asks the kernel to end and waits for it. Later calls raise."""
        self._closed = self._closed or "it was closed"
        self._finalizer()

    def note(self) -> str:
        beside = self._card.note()
        state = "it is loaded and starts with the first call" if not self._kernel.running else self._kernel.state
        return f"one persistent kernel: {self._closed or state}" + (f"; {beside}" if beside else "")

    def line(self) -> Line:
        return self._network.line()


class PersistentStream(PersistentPlan):
    """A network whose states stay with its kernel: a call is a time step of one stream."""

    _kept: bytes | None = None
    """The states while the kernel does not run; None where it starts anew."""

    def _started(self) -> None:
        super()._started()
        kept, self._kept = self._kept, None
        if kept is not None and not self._kernel.box.command & RESET:
            self._load(kept)

    def suspend(self) -> None:
        """Ends the kernel, and keeps the states where it gives them; else the stream starts anew."""
        if self._kernel.running and self._network.past is not None:
            self._kept = self.save_state()
        super().suspend()

    def reset(self, first: int, count: int) -> None:
        """With the next time step: its message says so. A stream has one sample, `first` 0 and `count` 1."""
        self._kernel.box.order(RESET)

    def save_state(self) -> bytes:
        """float32 h of all layers, then c of an LSTM; NaN where the stream is corrupted. Nothing where the kernel
        gives its past to nobody.

        Asks a running kernel, so it raises BackendUnavailable where that does not answer, and once the model is closed.
        """
        past = self._network.past
        if past is None:
            return b""
        if self._closed is not None:
            self.start()  # which says why not
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

    @property
    def state_rows(self) -> int:
        """Rows of `save_state`, one for each layer and kind of state."""
        assert self._network.past is not None
        return self._network.past.numel() // int(self._network.stages[0].attrs["hidden"])

    def load_state(self, state: bytes) -> None:
        """What `save_state` gave. Nothing where it gives nothing: a new kernel stands before its first step."""
        if self._network.past is None:
            return
        self._kernel.box.withdraw(RESET)
        if self._kernel.running:
            self._load(state)
        else:
            self._kept = bytes(state)

    def save_stream(self, stream: int) -> bytes:
        """That of the only one. Raises UnsupportedProblem where its kernel gives it to nobody."""
        if self._network.past is None:
            raise UnsupportedProblem(
                "save_stream", self._network.line().kernel, "a stream whose kernel gives its states: that in CUDA C++",
                "Install NVRTC (pip install 'rtaccel[cuda]') and make the stream again.",
            )  # fmt: skip
        return self.save_state()

    def load_stream(self, stream: int, state: bytes) -> None:
        """Raises ValueError for what `save_stream` did not give."""
        words = 0 if self._network.past is None else self._network.past.numel()
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


def fused(group: Subgraph) -> tuple[Stage, ...]:
    """The stages of a group as persistent kernels take them."""
    if any(operator(s.op).persistent is Persistent.STREAM for s in group.stages):
        return tuple(group.stages)  # the kernel has its own order of all of them
    return tuple(fuse(group.stages, [p.value for p in group.outputs], 1, whole=True))


def persistent_network(group: Subgraph, streamed: bool) -> Network:
    """What computes a group on a GPU and stays. Raises UnsupportedProblem where nothing does."""
    if len(group.outputs) != 1:
        raise UnsupportedProblem(
            "persistent", f"{len(group.outputs)} outputs", "one", "Return one tensor, or join them with torch.cat."
        )
    return network_of(fused(group), streamed)


def persistent_plan(group: Subgraph, streamed: bool = False) -> PersistentPlan:
    """The plan of a group. Raises UnsupportedProblem where it cannot stay."""
    network = persistent_network(group, streamed)
    return (PersistentStream if streamed else PersistentPlan)(group, network, persistent_device())
