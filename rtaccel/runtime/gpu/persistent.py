"""The persistent path: a persistent kernel on the GPU, a mailbox in pinned host memory, and the host's side of both.

A call writes x into the mailbox and spins, in the native core and without the GIL, until y is there: no launch, no copy, no
CUDA call. The kernel is compiled and loaded with the model. It starts at the first call, or when the model is bound or sealed,
and holds its multiprocessors, one for every program, until `suspend()` or `close()`.

While it runs, CUDA calls that wait for the whole device never return: torch.cuda.synchronize(), freeing memory with
empty_cache(), loading code. What this library would do of that is refused (backends/cuda_persistent.py). Streams and events of
other work are not touched.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.batch import only
from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Persistent
from rtaccel.plan.explain import Line
from rtaccel.plan.fuse import fuse
from rtaccel.plan.group import Subgraph
from rtaccel.runtime.gpu.graph import DevicePlan
from rtaccel.runtime.gpu.persistent_device import PersistentDevice, persistent_device
from rtaccel.runtime.gpu.persistent_front import without_factors
from rtaccel.runtime.gpu.persistent_networks import Network, network_of
from rtaccel.runtime.gpu.persistent_run import KernelRun
from rtaccel.runtime.gpu.persistent_weights import RENEW, Packed, WeightSets

TIMEOUT_NS = 1_000_000_000


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
        self._starting = threading.RLock()
        # At exit, too: a process whose kernel never ends would not end.
        self._finalizer = weakref.finalize(self, self._kernel.close)

    def start(self) -> None:
        """Starts the kernel, where it does not run: once, whichever threads call. Raises BackendUnavailable where it cannot."""
        if self._closed is not None:
            raise BackendUnavailable("persistent", self._closed, "a running kernel", "Compile the model again.")
        with self._starting:
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
            if what in ("ended", "forked"):
                self._ask(*addresses)  # starts it again, where this process may
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
        group, factors = without_factors(group)
        if not _same(factors, self._network.factors):
            raise FormatError(
                "swap", "other factors of the columns of x", "those of the running kernel: the same static scales",
                "Compile that model.",
            )  # fmt: skip
        return self._network.packed(fused(group))

    def exchange(self, packed: Packed) -> None:
        """The next call is made with these, from any thread."""
        sets = self._network.sets
        assert sets is not None
        sets.exchange(packed, self._kernel.box, self._card.copying)

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
    group, factors = without_factors(group)
    network = network_of(fused(group), streamed)
    network.factors = factors
    return network


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def persistent_plan(group: Subgraph, streamed: bool = False) -> PersistentPlan:
    """The plan of a group. Raises UnsupportedProblem where it cannot stay."""
    network = persistent_network(group, streamed)
    from rtaccel.runtime.gpu.persistent_stream import PersistentStream

    return (PersistentStream if streamed else PersistentPlan)(group, network, persistent_device())
