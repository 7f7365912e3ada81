"""Graph replay: a group of kernels captured once and launched as one, in buffers of its own or in the caller's.

`call` and `run` copy the inputs into static buffers, replay, and copy the results out. `bind` captures a graph that reads and
writes the caller's tensors where they lie: a replay and nothing else; tensors in pinned host memory are copied around it.

A new graph is checked: its outputs are corrupted, it is replayed, and what it writes must be what the kernels write when they
are launched one by one. So a graph that lost a kernel to another stream is found here, not by a user.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.backends.cuda_errors import translated
from rtaccel.backends.cuda_streams import Order
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.stage import GraphIO
from rtaccel.plan.explain import Line
from rtaccel.plan.group import StagedPlan, Subgraph
from rtaccel.runtime.gpu.device import DeviceLayer, Graph


class DevicePlan(StagedPlan):
    """A plan whose calls launch nothing from Python: it can be bound and sealed, says how it runs, and can be closed."""

    def bind(self, inputs: Any, out: Any) -> Callable[[], None] | None:
        raise NotImplementedError

    def seal(self) -> None:
        """From here on nothing is launched, allocated or captured."""

    def note(self) -> str:
        """For `explain`."""
        raise NotImplementedError

    def line(self) -> Line | None:
        """One line of `explain` for the whole, where its stages are not computed one by one."""
        return None

    def suspend(self) -> None:
        """Ends what runs on the device without being called. The next call starts it again."""

    def close(self) -> None:
        """Gives back what it holds of the device."""


class GraphPlan(DevicePlan):
    """A staged plan behind a graph for the batch it was planned for. Other batches are launched kernel by kernel, until the
    model is sealed."""

    NEXT = "Please report the model; mode='eager' launches kernel by kernel."

    def __init__(self, staged: StagedPlan, layer: DeviceLayer, samples: int, edges: Subgraph | None = None) -> None:
        """edges: the tensors of a caller, where they are not all of what `staged` takes."""
        self.__dict__.update(staged.__dict__)
        self._group = edges or staged._group
        self._staged, self._layer, self._samples = staged, layer, samples
        self._order = staged._order = layer.order()
        self._sealed = False
        self._bound: weakref.WeakSet[BoundGraph] = weakref.WeakSet()
        self._inputs = tuple(self._buffer(port) for port in self._group.inputs)
        with translated("graph", layer.free_text):
            self._graph = self._captured(self._inputs)
        self._outputs = self._graph.outputs

    def _buffer(self, port: GraphIO) -> Tensor:
        """Random numbers, by which a new graph is checked, for the planned batch; indices are 0."""
        shape = static_shape(port, self._samples)
        buffer = torch.zeros(shape, dtype=getattr(torch, port.value.dtype), device=self._layer.device)
        if buffer.is_floating_point():
            return buffer.normal_()
        return buffer.random_(-127, 128) if buffer.dtype == torch.int8 else buffer

    # -- capturing -------------------------------------------------------------------------------------------------

    def _launched(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The kernels launched one by one."""
        return self._taken(self._staged.call(inputs), inputs)

    def _any_kept(self, kept: Sequence[Tensor]) -> Sequence[Tensor]:
        """What a replay and its kernels are compared from: numbers that show more than those of a beginning."""
        return kept

    def _compared(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What a replay is held to."""
        return self._launched(inputs)

    @staticmethod
    def _taken(results: Tensor | tuple[Tensor, ...] | None, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if results is None:
            shapes = [tuple(t.shape) for t in inputs]
            raise UnsupportedProblem("graph", f"{shapes}", "tensors this plan takes", "Please report this input.")
        return (results,) if isinstance(results, Tensor) else tuple(results)

    def _kept(self) -> tuple[Tensor, ...]:
        """What calls write beside their results, and later ones read: states, and what stages count."""
        return self._staged.kept

    def _captured(self, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor] | None = None) -> Graph:
        """A graph of the kernels on these tensors; its results are copied to `outputs`, where given, in the graph. What is kept
        is as before."""

        def work() -> tuple[Tensor, ...]:
            results = self._launched(inputs)
            if outputs is None:
                return results
            for target, result in zip(outputs, results):
                target.copy_(result)
            return tuple(outputs)

        with self._order:  # what is kept may be in the works on another stream
            kept = [t.clone() for t in self._kept()]
            graph = self._layer.capture(work)
            begun = self._any_kept(kept)
            self._restore(begun)
            expected = [t.clone() for t in (*self._compared(inputs), *self._kept())]
            self._restore(begun)
            for t in graph.outputs:
                t.fill_(float("nan") if t.is_floating_point() else 85)
            graph.replay()
            self._layer.synchronize()
            ends, seen = len(graph.outputs), (*graph.outputs, *[t.clone() for t in self._kept()])
            self._restore(kept)
        for index, (got, want) in enumerate(zip(seen, expected)):
            if not _alike(got, want):
                what = f"output {index}" if index < ends else f"state {index - ends}"
                raise UnsupportedProblem(
                    "graph", f"a replay that does not write {what} as its kernels do", "a capture that holds every kernel",
                    self.NEXT,
                )  # fmt: skip
        return graph

    def _restore(self, kept: Sequence[Tensor]) -> None:
        for t, was in zip(self._kept(), kept):
            t.copy_(was)

    # -- calling ---------------------------------------------------------------------------------------------------

    def _lead(self, inputs: tuple[Tensor, ...]) -> torch.Size:
        return inputs[0].shape[: self._group.inputs[0].lead]

    def _replay(self, inputs: tuple[Tensor, ...]) -> None:
        with translated("graph", self._layer.free_text):
            for buffer, given in zip(self._inputs, inputs):
                buffer.copy_(given.view(buffer.shape))
            self._graph.replay()

    def call(self, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...] | None:
        if not self._fits(inputs, self._group.inputs):
            return None
        lead = self._lead(inputs)
        if lead.numel() != self._samples:
            with translated("call", self._layer.free_text):
                return self._staged.call(inputs)
        with self._order:  # the results too: the next replay, on another stream maybe, writes over them
            self._replay(inputs)
            results = tuple(t.clone().view((*lead, *p.trailing)) for t, p in zip(self._outputs, self._group.outputs))
        return results[0] if len(results) == 1 else results

    call_flat = call

    def run(self, inputs: tuple[Tensor, ...], outputs: Tensor | tuple[Tensor, ...]) -> bool:
        outs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if not self._fits(inputs, self._group.inputs) or not self._fits(outs, self._group.outputs):
            return False
        lead = self._lead(inputs)
        if any(tuple(o.shape) != (*lead, *p.trailing) for o, p in zip(outs, self._group.outputs)):
            return False
        if lead.numel() != self._samples:
            if self._sealed:
                return False
            with translated("run", self._layer.free_text):
                return self._staged.run(inputs, outs)
        with self._order:
            self._replay(inputs)
            for out, result in zip(outs, self._outputs):
                out.copy_(result.view(out.shape))
        return True

    def bind(self, inputs: Any, out: Any) -> Callable[[], None] | None:
        """A replay on the caller's own tensors; None where they do not fit as they lie.

        Tensors on the device are read and written in place. Pinned host memory is copied before and after, and the call
        then waits for the result.
        """
        given = tuple(pytree.tree_leaves(inputs))
        outs = tuple(pytree.tree_leaves(out))
        held, bound_in = self._placed("bind", given, self._group.inputs)
        shown, bound_out = self._placed("bind", outs, self._group.outputs)
        if not self._fits(bound_in, self._group.inputs) or not self._fits(bound_out, self._group.outputs):
            return None
        lead = self._lead(bound_in)
        if any(tuple(t.shape) != (*lead, *p.trailing) for t, p in zip(bound_out, self._group.outputs)):
            return None
        if self._sealed:
            raise UnsupportedProblem("bind", "a sealed model", "bind before seal()", "A capture allocates; bind first.")
        with translated("bind", self._layer.free_text):
            graph = self._captured(bound_in, bound_out)
        bound = BoundGraph(self._layer, self._order, graph, held, shown, (*bound_in, *bound_out))
        self._bound.add(bound)
        return bound

    def close(self) -> None:
        """Bound calls end with the weights that they were captured with."""
        for bound in self._bound:
            bound.ended = True

    def _placed(
        self, op: str, tensors: tuple[Tensor, ...], ports: tuple[GraphIO, ...]
    ) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, ...]]:
        """(pairs of host tensor and its buffer on the device, the tensors on the device)."""
        pairs, placed = [], []
        for t in tensors:
            if isinstance(t, Tensor) and self._layer.is_host(t):
                if not self._layer.is_pinned(t) or not t.is_contiguous():
                    raise ShapeError(
                        op, "host memory that is not pinned, or strided", f"pinned memory, or on {self._layer.device}",
                        "Allocate it with torch.empty(..., pin_memory=True).",
                    )  # fmt: skip
                buffer = torch.empty(t.shape, dtype=t.dtype, device=self._layer.device)
                pairs.append((t, buffer))
                t = buffer
            placed.append(t)
        return pairs, tuple(placed)

    def seal(self) -> None:
        self._sealed = True

    def note(self) -> str:
        return (
            f"one CUDA graph for {self._samples} rows; other batches are launched kernel by kernel"
            if not self._sealed
            else f"one CUDA graph for {self._samples} rows; run() takes no other batch"
        )


def static_shape(port: GraphIO, samples: int) -> tuple[int, ...]:
    """Of a tensor at the edge of a graph for so many samples."""
    lead = () if port.lead == 0 else (1,) * (port.lead - 1) + (samples,)
    if port.middle:
        lead = (samples // prod(port.middle), *port.middle)
    return (*lead, *port.trailing)


class BoundGraph:
    """A graph and the tensors it reads and writes. Graphs of one model share the workspaces of its kernels, so their replays
    follow each other, on whatever streams. A replay is refused once the memory of one of them is not what it was:
    the graph would read or write somebody else's."""

    def __init__(
        self, layer: DeviceLayer, order: Order, graph: Graph, inputs: Sequence[tuple[Tensor, Tensor]],
        outputs: Sequence[tuple[Tensor, Tensor]], tensors: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self._order = order
        self._layer, self._graph, self._inputs, self._outputs = layer, graph, inputs, outputs
        self.ended = False
        host = [t for t, _ in (*inputs, *outputs)]
        self._bound = [(t, t.data_ptr(), t.untyped_storage().nbytes()) for t in (*tensors, *host)]

    def __call__(self) -> None:
        if self.ended:
            raise UnsupportedProblem(
                "bound call", "a graph of weights that were replaced", "one of the model as it is", "Bind again."
            )
        for tensor, address, size in self._bound:
            if tensor.data_ptr() != address or tensor.untyped_storage().nbytes() < size:
                raise ShapeError(
                    "bound call", f"a tensor at {tensor.data_ptr():#x} that was bound at {address:#x}",
                    "the memory that was bound", "Bind again: its storage was freed, resized or replaced.",
                )  # fmt: skip
        with translated("bound call", self._layer.free_text):
            with self._order:
                for host, buffer in self._inputs:
                    buffer.copy_(host, non_blocking=True)
                self._graph.replay()
                for host, buffer in self._outputs:
                    host.copy_(buffer, non_blocking=True)
            if self._outputs:
                self._layer.synchronize()


def _alike(got: Tensor, want: Tensor) -> bool:
    """The same up to the order of float sums, which a library may choose anew."""
    if not got.is_floating_point():
        return bool(torch.equal(got, want))
    return bool(torch.allclose(got, want, rtol=1e-4, atol=1e-5, equal_nan=True))
