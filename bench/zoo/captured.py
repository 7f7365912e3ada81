"""What a network's graph on a GPU consists of, counted from a capture without a card.

The driver is played: a launch of Triton's is noted with its grid, and PyTorch runs on tensors without memory ("meta"), which give
shapes and no numbers. So a plan is captured as `rt.compile(..., device="cuda")` captures it, kernel by kernel. Every call that
PyTorch makes inside is seen, whatever a stage was thought to do. What looks at a number ends a capture here, as on a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rtaccel.backends.cuda_streams import NO_ORDER, Order
from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import Impl, Prepared, impls
from rtaccel.core.stage import Problem, Stage
from rtaccel.plan.choose import Choice
from rtaccel.plan.fuse import fuse
from rtaccel.plan.group import StagedPlan, Subgraph
from rtaccel.runtime.gpu.device import WARM_UPS, Graph, Work

META = "meta"
NOTHING = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh", "_unsafe_view",
}  # fmt: skip
"""Calls of PyTorch that launch nothing, beside views."""

LIBRARY = {"mm", "_int_mm", "addmm", "bmm", "baddbmm", "addmv", "convolution", "_fft_c2c", "_fft_r2c", "_fft_c2r"}
"""Calls that are cuBLAS's, cuDNN's or cuFFT's."""


@dataclass
class Nodes:
    """Of one graph. triton: a kernel's form -> launches. torch, library: call -> how often. copies: of memory as it lies."""

    triton: Counter[str] = field(default_factory=Counter)
    torch: Counter[str] = field(default_factory=Counter)
    library: Counter[str] = field(default_factory=Counter)
    copies: int = 0

    def add(self, other: Nodes) -> None:
        for mine, more in ((self.triton, other.triton), (self.torch, other.torch), (self.library, other.library)):
            mine.update(more)
        self.copies += other.copies


class _Watched(TorchDispatchMode):
    """Notes what PyTorch would launch."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self._nodes = nodes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in NOTHING:
            return result
        if name in ("clone", "copy_") and _as_it_lies(args[-1] if name == "copy_" else args[0], result):
            self._nodes.copies += 1
        elif name in LIBRARY:
            self._nodes.library[name] += 1
        else:
            self._nodes.torch[name] += 1
        return result


def _as_it_lies(source: Tensor, target: Tensor) -> bool:
    same = source.dtype == target.dtype and source.shape == target.shape
    return same and source.is_contiguous() and target.is_contiguous()


class PlayedCard:
    """A rtaccel.runtime.gpu.device.DeviceLayer whose captures are lists of nodes."""

    device = META

    def __init__(self) -> None:
        self.captured: list[Nodes] = []

    def capture(self, work: Work) -> Graph:
        from rtaccel.kernels._gpu.triton_launch import noted

        for _ in range(WARM_UPS):
            work()
        nodes = Nodes()
        with noted() as launches, _Watched(nodes):
            outputs = work()
        nodes.triton.update(launch.spec.name for launch in launches)
        self.captured.append(nodes)
        return _Captured(outputs)

    def order(self) -> Order:
        return NO_ORDER

    def free_text(self) -> str:
        return ""


@dataclass
class _Captured:
    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        """Nothing is computed."""


def plan_of(group: Subgraph, rows: int) -> tuple[StagedPlan, tuple[Stage, ...]]:
    """The plan of a group for a GPU that is not there, and its stages. To be called inside `played()`."""
    group = replace(group, stages=fuse(group.stages, [p.value for p in group.outputs], rows))
    prepared = [_prepared(stage, rows) for stage in group.stages]
    return StagedPlan(group, prepared, ANY_BATCH, META, triton=True), group.stages


def taken(stage: Stage, rows: int) -> tuple[Impl | None, list[str]]:
    """The implementation in Triton that a GPU's plan takes, or the reasons of those that refuse."""
    problem, refused = Problem.of(stage, rows, "cuda"), []
    for impl in impls("triton", stage.op):
        reason = impl.supports(problem)
        if reason is None:
            return impl, []
        refused.append(str(reason))
    return None, refused


def _prepared(stage: Stage, rows: int) -> Prepared:
    impl, _ = taken(stage, rows)
    problem = Problem.of(stage, rows, META)
    if impl is not None:
        return impl.prepare(stage, problem)
    return Choice(stage, problem, impls("portable", stage.op)[0], ()).prepare()


def capture(group: Subgraph, rows: int) -> tuple[Nodes, tuple[Stage, ...]]:
    """The nodes of a group's graph for its planned batch, and its stages. Raises what a capture would end with."""
    from rtaccel.kernels._gpu.triton_launch import played

    with played():
        plan, stages = plan_of(group, rows)
        card = PlayedCard()
        inputs = given_of(group, rows)
        try:
            card.capture(_call(plan, inputs))
        except RuntimeError as error:
            if "meta tensors" not in str(error):
                raise
            own = ", ".join(sorted({s.op for s in stages if taken(s, rows)[0] is None}))
            raise UnsupportedProblem(
                "graph", f"a stage of PyTorch's ({own}) that looks at numbers", "calls that only launch kernels",
                "Compile with mode='eager'.",
            ) from error  # fmt: skip
    return card.captured[0], stages


def _call(plan: StagedPlan, inputs: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    def work() -> tuple[Tensor, ...]:
        results = plan.call(inputs)
        if results is None:
            raise AssertionError(f"{[tuple(t.shape) for t in inputs]} is not what the plan takes")
        return (results,) if isinstance(results, Tensor) else tuple(results)

    return work


def given_of(group: Subgraph, samples: int) -> tuple[Tensor, ...]:
    """As GraphPlan's static buffers."""
    from rtaccel.runtime.gpu.graph import static_shape

    shapes = ((static_shape(port, samples), getattr(torch, port.value.dtype)) for port in group.inputs)
    return tuple(torch.empty(shape, dtype=dtype, device=META) for shape, dtype in shapes)
