"""The persistent path: a kernel that stays on the GPU, a mailbox in pinned host memory, and the host's side of both.

A call writes x into the mailbox and spins, in the native core and without the GIL, until y is there: no launch, no copy, no
CUDA call. The kernel holds its multiprocessors, one for every program, from start to `close()`.

While it runs, CUDA calls that wait for the whole device never return: torch.cuda.synchronize(), freeing memory with
empty_cache(), device-wide frees. Streams and events of other work are not touched.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.batch import only
from rtaccel.core.errors import BackendUnavailable, ShapeError, UnsupportedProblem
from rtaccel.plan.explain import Line
from rtaccel.plan.fuse import fuse
from rtaccel.plan.group import Group
from rtaccel.runtime.cuda_graph import DevicePlan
from rtaccel.runtime.cuda_resident_networks import Network, network_of

ABORT, STATE, LOOKS = 0, 1, 2
"""Words of the control block, as kernels/_shared/triton_mailbox.py has them."""

STATES = {0: "it has not started", 1: "it runs", 2: "it was asked to end", 3: "it ended, as nobody called for long"}
TIMEOUT_NS = 1_000_000_000
RESET, SAVE, LOAD, SPOILED = 1, 2, 4, 8
"""Commands of a message, as kernels/_shared/cuda_recurrent.cu has them; those in Triton know the first."""

START_S = 30.0
END_S = 5.0
CONTROL_WORDS = 8


class Running(Protocol):
    """A kernel that was started."""

    def finished(self) -> bool: ...


class ResidentDevice(Protocol):
    """Where a resident kernel runs. The tests bring a CPU thread that plays one."""

    def unsuitable(self) -> str | None:
        """None, or why no kernel may stay on this device."""

    def mailbox(self, words: int) -> Tensor:
        """int64 zeros in memory that both sides see."""

    def start(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Running:
        """Starts the kernel of a network; does not wait for it."""


KERNEL_EXEC_TIMEOUT, CAN_MAP_HOST_MEMORY = 17, 19
"""CUdevice_attribute of the driver interface."""


class CudaResident:
    """The current CUDA device."""

    def unsuitable(self) -> str | None:
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            return f"the CUDA driver cannot be loaded ({error})"
        found = {}
        for attribute in (KERNEL_EXEC_TIMEOUT, CAN_MAP_HOST_MEMORY):
            value = ctypes.c_int(-1)
            if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, torch.cuda.current_device()):
                return "the CUDA driver does not say whether it ends long kernels"
            found[attribute] = value.value
        name = torch.cuda.get_device_name()
        if found[KERNEL_EXEC_TIMEOUT]:
            return f"{name} drives a display, and the driver ends kernels that run for seconds"
        if not found[CAN_MAP_HOST_MEMORY]:
            return f"{name} does not see the memory of the host"
        return None

    def mailbox(self, words: int) -> Tensor:
        return torch.zeros(words, dtype=torch.int64).pin_memory()

    def start(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Running:
        launch, kept = network.prepared("cuda")
        torch.cuda.current_stream().synchronize()  # the weights are there
        stream = torch.cuda.Stream(priority=-1)
        with torch.cuda.stream(stream):
            launch(requests, replies, control)
        return _OnStream(stream, kept)


class _OnStream:
    def __init__(self, stream: torch.cuda.Stream, kept: Any) -> None:
        self._stream, self._kept = stream, kept

    def finished(self) -> bool:
        return bool(self._stream.query())


def resident_device() -> ResidentDevice:
    return CudaResident()


class ResidentPlan(DevicePlan):
    """A network on a resident kernel. Tensors are the host's: x [1, K] and y [1, N], float32.

    Raises BackendUnavailable where the device does not let it stay.
    """

    def __init__(self, group: Group, network: Network, device: ResidentDevice) -> None:
        from rtaccel._native import Mailbox

        super().__init__(group, [], only(1), "cpu")
        reason = device.unsuitable()
        if reason is not None:
            raise BackendUnavailable(
                "compile", "mode='persistent'", f"a GPU on which a kernel may stay ({reason})",
                "Use mode='graph', or a card that drives no display.",
            )  # fmt: skip
        self._network = network
        inputs, outputs, commands = network.inputs, network.outputs, network.commands
        self._requests, self._replies = device.mailbox(2 * (inputs + commands)), device.mailbox(2 * outputs)
        self._control = device.mailbox(CONTROL_WORDS)
        if network.states:
            network.past = device.mailbox(network.states)
        self._running = device.start(network, self._requests, self._replies, self._control)
        self._box = Mailbox(self._requests.data_ptr(), inputs, self._replies.data_ptr(), outputs, commands)
        self._command = 0
        self._closed: str | None = None
        # At exit, too: a process whose kernel never ends would not end.
        self._finalizer = weakref.finalize(self, _end, self._control, self._running)
        self._await_start()

    def _await_start(self) -> None:
        until = time.monotonic() + START_S
        while self._control[STATE] == 0 and time.monotonic() < until and not self._running.finished():
            time.sleep(0.001)
        if self._control[STATE] != 1:
            self._fail("a resident kernel that starts", "the kernel did not start")

    def _fail(self, expected: str, what: str) -> None:
        """Ends the kernel, so that nothing of it is left, and raises."""
        state, looks = STATES.get(int(self._control[STATE]), "?"), int(self._control[LOOKS])
        time.sleep(0.01)
        alive = "it still looks for messages" if int(self._control[LOOKS]) != looks else "it does not move"
        self.close()
        self._closed = f"{what}; {state}, {alive}"
        raise BackendUnavailable("persistent", self._closed, expected, "Compile the model again, or use mode='graph'.")

    def _ask(self, x: int, y: int) -> None:
        if self._closed is not None:
            raise BackendUnavailable("persistent", self._closed, "a running kernel", "Compile the model again.")
        if not self._box.exchange(x, y, TIMEOUT_NS, self._command):
            self._fail("an answer", f"no answer in {TIMEOUT_NS / 1e9:g} s")
        self._command = 0

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
        x, y, ask = given[0], outs[0], self._ask
        addresses = (x.data_ptr(), y.data_ptr())

        def call() -> None:
            if (x.data_ptr(), y.data_ptr()) != addresses:
                raise ShapeError(
                    "bound call", "a tensor whose memory is not what was bound", "the memory that was bound",
                    "Bind again: its storage was freed, resized or replaced.",
                )  # fmt: skip
            ask(*addresses)

        return call

    # -- ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Asks the kernel to end and waits for it. Later calls raise."""
        self._closed = self._closed or "it was closed"
        self._finalizer()

    def note(self) -> str:
        control = STATES.get(int(self._control[STATE]), "?")
        return f"one kernel that stays on the GPU: {self._closed or control}"

    def line(self) -> Line:
        return self._network.line()


class ResidentStream(ResidentPlan):
    """A network whose states stay with its kernel: a call is a moment of one stream."""

    def reset(self, first: int, count: int) -> None:
        """With the next moment: its message says so. A stream has one sample, `first` 0 and `count` 1."""
        self._command = RESET

    def save_state(self) -> bytes:
        """float32 h of all layers, then c of an LSTM; NaN where the stream is spoiled. Nothing where the kernel gives its past to
        nobody.

        Asks the kernel, so it raises BackendUnavailable once that has ended.
        """
        past = self._network.past
        if past is None:
            return b""
        if self._command == RESET:  # the states are what they were until the next moment, and are zero from there on
            return bytes(4 * past.numel())
        number = self._order(SAVE)
        until = time.monotonic() + START_S
        while not bool((past >> 32 == number).all()):
            if time.monotonic() > until:
                self._fail("its states", "the kernel did not give them")
        return past.view(torch.int32)[::2].numpy().tobytes()  # the lower half of every word

    def load_state(self, state: bytes) -> None:
        """What `save_state` gave. Nothing where it gives nothing: a new kernel stands before its first moment."""
        past = self._network.past
        if past is None:
            return
        states = torch.frombuffer(bytearray(state), dtype=torch.float32)
        spoiled = 0 if bool(torch.isfinite(states).all()) else SPOILED
        payload = states.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        past.copy_(payload | _signed(self._box.number + 1) << 32)
        self._order(LOAD | spoiled)

    def _order(self, command: int) -> int:
        """A message that is no moment; gives its number, as the upper half of a signed word holds it."""
        x, y = torch.zeros(self._network.inputs), torch.empty(self._network.outputs)
        self._command = command
        self._ask(x.data_ptr(), y.data_ptr())
        return _signed(self._box.number)


def _signed(number: int) -> int:
    """A number of a message as the upper half of an int64."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >= 1 << 31 else number


def _end(control: Tensor, running: Running) -> None:
    """Sets the abort word and waits, for some seconds at most: a kernel that does not move holds up nobody."""
    control[ABORT] = 1
    until = time.monotonic() + END_S
    while not running.finished() and time.monotonic() < until:
        time.sleep(0.0005)


def resident_network(group: Group, streamed: bool) -> Network:
    """What computes a group on a GPU and stays. Raises UnsupportedProblem where nothing does."""
    stages = fuse(group.stages, [p.value for p in group.outputs], 1, whole=True)
    if any(s.op == "conv" for s in group.stages):
        stages = group.stages  # the kernel has its own order of all of them
    if len(group.outputs) != 1:
        raise UnsupportedProblem(
            "persistent", f"{len(group.outputs)} outputs", "one", "Return one tensor, or join them with torch.cat."
        )
    return network_of(stages, streamed)


def resident_plan(group: Group, streamed: bool = False) -> ResidentPlan:
    """The plan of a group. Raises UnsupportedProblem where it cannot stay."""
    network = resident_network(group, streamed)
    return (ResidentStream if streamed else ResidentPlan)(group, network, resident_device())
