"""A group: stages that share their samples and run as one step. On the CPU that step is a single native call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rtaccel.backends import get_backend
from rtaccel.backends.cuda_errors import translated
from rtaccel.backends.cuda_streams import NO_ORDER, Order, StreamOrder, current_index
from rtaccel.core.batch import ANY_BATCH, BatchRange
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import Prepared, operator
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.kernels._gpu.cubin_launch import ALIGNMENT
from rtaccel.plan.choose import Choice, choose_all
from rtaccel.plan.fuse import fuse
from rtaccel.plan.nan_marks import marked_values

if TYPE_CHECKING:
    from rtaccel.kernels._core.cpu import States


@dataclass(frozen=True)
class Subgraph:
    """Stages in order, and the values at the edge, as the caller's tensors. states: outputs that live on: a sample that int8
    cannot hold leaves them as they come."""

    stages: tuple[Stage, ...]
    inputs: tuple[GraphIO, ...]
    outputs: tuple[GraphIO, ...]
    states: frozenset[str] = frozenset()


class Executable(Protocol):
    """What runs a group. Tensors that do not fit are reported by None or False, and nothing was done."""

    def call(self, inputs: Any, /) -> Any: ...

    def call_flat(self, inputs: tuple[Tensor, ...], /) -> Tensor | tuple[Tensor, ...] | None: ...

    def run(self, inputs: Any, outputs: Any, /) -> bool: ...


Marking = Callable[[Sequence[Tensor], Sequence[Tensor], Mapping[str, Tensor]], None]
"""(values that are looked at, float32 results to be written over, all values by name)."""


class StagedPlan:
    """Runs prepared stages one after another: for backends whose kernels are launched from Python.

    placed: values that are written over another, by name: into memory that nobody reads any more.
    kept: tensors that calls change beside their results, of prepared stages that say so by an attribute of this name.
    marking: what is done of samples that int8 cannot hold, in place of what the plan does; None for that."""

    packed_bytes = 0
    scratch_bytes = 0
    state_bytes = 0

    def __init__(
        self, group: Subgraph, prepared: Sequence[Prepared], batch: BatchRange, device: str, triton: bool = False
    ) -> None:
        self._steps = [
            (call, stage.inputs, stage.outputs, operator(stage.op).by_row)
            for call, stage in zip(prepared, group.stages)
        ]
        # int8 cannot hold a NaN: static quantization marks the row, and the outputs of that row become NaN.
        self._floats = [p for p in group.outputs if p.value.dtype == "float32" and p.value.name not in group.states]
        self._checked = marked_values(group.stages, [p.value for p in self._floats])
        self.kept = tuple(t for call in prepared for t in getattr(call, "kept", ()))
        self.marks, self.triton = bool(self._checked), triton
        self._aligned = triton or device == "cuda"
        self._group, self._batch, self._device = group, batch, device
        self.placed: dict[str, str] = {}
        self.marking: Marking | None = None
        self._order: Order = StreamOrder() if device == "cuda" else NO_ORDER
        self._index = current_index(device)
        self._propagate_nan: Marking | None = None
        if triton and self._checked and self._floats and not group.states:
            from rtaccel.kernels._general.triton_nan_values import values_propagator

            propagate = values_propagator(
                self.checked_sizes, tuple(p.value.steps * p.value.width for p in self._floats)
            )
            self._propagate_nan = lambda checked, floats, env: propagate(checked, floats)

    def _fits(self, tensors: tuple[Tensor, ...], ports: tuple[GraphIO, ...]) -> bool:
        if len(tensors) != len(ports):
            return False
        for tensor, port in zip(tensors, ports):
            if not isinstance(tensor, Tensor) or tensor.dim() != port.lead + len(port.trailing):
                return False
            if tuple(tensor.shape[port.lead :]) != port.trailing or tensor.device.type != self._device:
                return False
            if tensor.get_device() != self._index:
                return False
            if port.middle and tuple(tensor.shape[1 : port.lead]) != port.middle:
                return False
            if tensor.dtype != getattr(torch, port.value.dtype) or not tensor.is_contiguous() or tensor.is_neg():
                return False
        leads = {tuple(tensor.shape[: port.lead]) for tensor, port in zip(tensors, ports)}
        if len(leads) != 1:
            return False
        lead = leads.pop()
        return not lead or lead[0] in self._batch

    def call(self, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...] | None:
        """None where the inputs do not fit as they lie. A CUDA error on a GPU becomes a typed one."""
        if self._device != "cuda":
            return self._launch(inputs)
        with translated("call"), self._order:
            return self._launch(inputs)

    def _launch(self, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...] | None:
        if not self._fits(inputs, self._group.inputs):
            return None
        lead = inputs[0].shape[: self._group.inputs[0].lead]
        samples = lead.numel()
        given_here = (t.clone() if self._copied(t) else t for t in inputs)
        env = {p.value.name: t.reshape(samples, *p.value.shape) for p, t in zip(self._group.inputs, given_here)}
        nonfinite: Tensor | None = None
        with torch.no_grad():
            for call, sources, targets, by_row in self._steps:
                given = [env[v.name].reshape(-1, v.width) if by_row else env[v.name] for v in sources]
                for value, result in zip(targets, self._made(call, targets, by_row, given, env)):
                    env[value.name] = result.reshape(samples, *value.shape)
            if self._propagate_nan is not None or self.marking is not None:
                self._hand_on(env, inputs)
            else:
                for value in self._checked:
                    bad = ~torch.isfinite(env[value.name]).flatten(1).all(1)
                    nonfinite = bad if nonfinite is None else nonfinite | bad
        results = []
        for port in self._group.outputs:
            y = env[port.value.name]
            if nonfinite is not None and y.is_floating_point() and port.value.name not in self._group.states:
                y = torch.where(
                    nonfinite.reshape(-1, *(1 for _ in port.value.shape)), torch.full_like(y, float("nan")), y
                )
            results.append(y.reshape((*lead, *port.trailing)))
        return results[0] if len(results) == 1 else tuple(results)

    def _copied(self, tensor: Tensor) -> bool:
        """Whether kernels would refuse it where it lies, as a slice of a batch: they read 16 bytes at once."""
        return self._aligned and tensor.data_ptr() % ALIGNMENT != 0

    def _hand_on(self, env: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> None:
        """Makes the float results NaN where a checked value is not finite, in one launch."""
        propagate = self._propagate_nan if self.marking is None else self.marking
        assert propagate is not None
        checked = [env[v.name].contiguous() for v in self._checked]
        own = {t.untyped_storage().data_ptr() for t in inputs}
        given = [] if self.marking is None else [p.value.name for p in self._group.inputs]
        floats = [p for p in self._floats if p.value.name not in given]
        for port in floats:
            y = env[port.value.name]
            if y.untyped_storage().data_ptr() in own:
                env[port.value.name] = y.clone()  # a view of the caller's own memory
        propagate(checked, [env[p.value.name] for p in floats], env)

    @property
    def checked_sizes(self) -> tuple[int, ...]:
        """Numbers of a sample of each value that is looked at."""
        return tuple(v.steps * v.width for v in self._checked)

    call_flat = call

    def _made(
        self, call: Prepared, targets: Sequence[Value], by_row: bool, given: Sequence[Tensor], env: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        over = [self.placed.get(v.name) for v in targets] if self.placed else []
        if not any(over):
            return call(*given)
        into: Callable[..., tuple[Tensor, ...]] = call.into  # type: ignore[attr-defined]
        memory = [None if name is None else env[name] for name in over]
        return into(tuple(t if t is None or not by_row else t.view(-1, t.shape[-1]) for t in memory), *given)

    def places(self, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Of pairs (a value that is made, one from outside that it follows): those where it may be written over the other. What
        makes it can be told where, no later stage reads the other one, nor is that a result; and it is not read by what makes
        the value either, but where that allows it."""
        found, results = dict[str, str](), {p.value.name for p in self._group.outputs}
        for made, over in pairs:
            for at, (call, sources, targets, _) in enumerate(self._steps):
                place = next((i for i, v in enumerate(targets) if v.name == made), None)
                if place is None or over in results or not hasattr(call, "into"):
                    continue
                read = [i for i, v in enumerate(sources) if v.name == over]
                later = any(v.name == over for step in self._steps[at + 1 :] for v in step[1])
                if not later and read in ([], [getattr(call, "over", {}).get(place)]):
                    found[made] = over
        return found

    def held(self) -> dict[str, Tensor]:
        """What its stages read beside its inputs, by name: the states of streams."""
        return {}

    def run(self, inputs: tuple[Tensor, ...], outputs: Tensor | tuple[Tensor, ...]) -> bool:
        outs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if not self._fits(outs, self._group.outputs):
            return False
        results = self.call(inputs)
        if results is None:
            return False
        for out, result in zip(outs, (results,) if isinstance(results, Tensor) else results):
            if out.shape != result.shape:
                return False
            out.copy_(result)
        return True


def plan_group(
    group: Subgraph,
    rows: int,
    device: str = "cpu",
    backend: str | None = None,
    batch: BatchRange = ANY_BATCH,
    threads: int = 1,
    states: States | None = None,
) -> tuple[Executable, list[Choice]]:
    """Chooses a kernel for each stage, packs its weights and binds the whole.

    rows: the batch that the choice is made for. batch: the sizes of it that later calls may have. threads: for native plans.
    states: values that live from call to call.
    """
    triton = backend in (None, "triton") and device in get_backend("triton").devices
    triton = triton and (device == "cuda" or backend == "triton") and get_backend("triton").unavailable() is None
    if triton:
        group = replace(group, stages=fuse(group.stages, [p.value for p in group.outputs], rows))
    elif device == "cpu" and backend in (None, "cpu", "portable") and states is None:
        from rtaccel.plan.activations import activations_inside
        from rtaccel.plan.padding import without_padding
        from rtaccel.plan.pairs import pairs_inside
        from rtaccel.plan.planes import over_planes
        from rtaccel.plan.squares import squares_inside

        group = without_padding(squares_inside(pairs_inside(activations_inside(over_planes(group)))))
    choices = choose_all(group.stages, rows, device, backend)
    if all(choice.impl.backend == "cpu" for choice in choices):
        from rtaccel.kernels._core.cpu import build

        pairs = [(c.stage, c.impl.name) for c in choices]
        return build(pairs, group.inputs, group.outputs, batch, states, threads), choices
    if states is not None:
        raise UnsupportedProblem(
            "stream", f"backend {backend!r}", "the native backend, which keeps states", "Leave backend= out."
        )
    prepared = [choice.prepare() for choice in choices]
    return StagedPlan(group, prepared, batch, device, triton), choices
