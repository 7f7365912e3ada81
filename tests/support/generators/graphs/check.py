"""Many graphs in one compiled model, each held against float64; of a wrong one, the shortest beginning that is wrong."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.generators.graphs import layers, matrices, movement, pointwise, reductions
from tests.support.generators.graphs.program import INPUTS, SAMPLES, Graph
from tests.support.generators.model_files import same_bits, through_a_file

KINDS = (*pointwise.KINDS, *reductions.KINDS, *movement.KINDS, *layers.KINDS, *matrices.KINDS)
NOISE = 2.0**-22
"""Of every number that a call reads and gives: four roundings to float32."""
RUNS = 5
FALL_BACK = ("reads nothing of its input",)
"""Why a call may fall back to torch: a transposed convolution of strides alone, all of whose taps read padding."""
ANOTHER_BATCH = "so more of the model is native"
"""Of what refuses other batches than the example's, with the reason: a fold of computed columns asks torch for its samples."""
FILED = 17
"""Of so many graphs one is compiled by itself too, saved, and loaded: a file takes no view for a result, as some of fifty are."""
MARGIN = 16.0
"""How far results may be off, in what the noise changes at most."""
FLOAT32 = 8.0
"""The same, in what torch's own float32 is off at most: noise finds little of what few numbers depend on."""


NAMES = (
    "x", "input", "cat", "stack", "mul", "add", "sub_1", "sum", "sum_1", "mean", "max", "linear", "view", "view_1", "index",
    "where", "slice_1", "clone", "getitem", "p_weight", "to", "getattr_1", "full", "zeros", "sigmoid", "len", "output", "expand",
    "batch",
)  # fmt: skip
"""Of inputs: what people call them, what a captured graph calls its calls, and what Python's own functions are called."""


class Graphs(nn.Module):
    """Graphs side by side, on the same inputs. Names of these are drawn."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graphs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(y for graph in self.graphs for y in graph(*inputs))

    @staticmethod
    def named(graphs: Sequence[Graph]) -> Graphs:
        names = random.Random(graphs[0].seed).sample(NAMES, len(INPUTS))

        def forward(self: Graphs, *inputs: Tensor) -> tuple[Tensor, ...]:
            return Graphs.forward(self, *inputs)

        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
        forward.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return type("Graphs", (Graphs,), {"forward": forward})(graphs)


@dataclass(frozen=True)
class Wrong:
    """graph: index of it. words: what differs."""

    graph: int
    words: str


def inputs(samples: int, seed: int) -> tuple[Tensor, ...]:
    made = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(samples, *shape, generator=made) for shape in INPUTS)


def _noisy(seed: int) -> Callable[[Tensor], Tensor]:
    made = torch.Generator().manual_seed(seed)

    def noisy(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return value * (1 + NOISE * torch.randn(value.shape, generator=made, dtype=value.dtype))

    return noisy


def expected(graph: Graph, given: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Results in float64, and how far each number of them may be off."""
    wide = [x.double() for x in given]
    exact = graph(*wide)
    off = [torch.zeros_like(y, dtype=torch.float64) for y in exact]
    for run in range(RUNS):
        graph.noise = _noisy(run)
        for furthest, want, got in zip(off, exact, graph(*wide)):
            torch.maximum(furthest, (got - want).abs().nan_to_num(torch.inf), out=furthest)
    graph.noise = None
    return [
        (y, MARGIN * torch.maximum(d, d.square().mean().sqrt()) + NOISE * y.abs() + 1e-30) for y, d in zip(exact, off)
    ]


def wrong(graphs: Sequence[Graph], backend: str | None = None) -> list[Wrong]:
    """Compiles the graphs together and runs them on two batches. Raises what compiling raises. Files are made of the
    default backend alone."""
    model = Graphs.named(graphs).eval()
    fast: Any = rt.compile(model, inputs(SAMPLES, 0), verify=False, backend=backend)
    filed = through_a_file(fast) if len(graphs) == 1 and backend is None else None
    reasons = [step.reason for step in fast._executor.steps if getattr(step, "reason", "")]
    found = [Wrong(-1, f"falls back to torch: {r}") for r in reasons if not any(known in r for known in FALL_BACK)]
    if not reasons and len(fast._executor.steps) > 1:
        found.append(Wrong(-1, "native stages are several calls"))
    wide = copy.deepcopy(model).double()
    for samples in (SAMPLES, SAMPLES + 1):
        given = inputs(samples, samples)
        computed = fast(*given)
        if filed is not None and not same_bits(computed, filed(*given)):
            found.append(Wrong(-1, f"a file of it gives other numbers for {samples} samples"))
        results, theirs = iter(computed), iter(model(*given))
        for i, graph in enumerate(wide.graphs):
            for want, allowed in expected(graph, given):
                got, other = next(results), (next(theirs).double() - want).abs()
                allowed = torch.maximum(allowed, FLOAT32 * other.max())
                if got.shape != want.shape:
                    found.append(Wrong(i, f"{list(got.shape)} instead of {list(want.shape)}"))
                    continue
                off = (got.double() - want).abs()
                over = ~(off <= allowed)
                if bool(over.any()):
                    at = int((off - allowed).nan_to_num(torch.inf).argmax())
                    found.append(
                        Wrong(
                            i,
                            f"{got.flatten()[at]:.6g} instead of {want.flatten()[at]:.6g}, {over.sum()} of {over.numel()}",
                        )
                    )
    return found


def _message(graph: Graph, backend: str | None = None) -> str | None:
    """What is wrong with one graph by itself."""
    try:
        found = wrong([graph], backend)
    except Exception as error:  # whatever compiling or running raises is what is reported
        words = f"{type(error).__name__}: {error}"
        return None if ANOTHER_BATCH in words else words
    return found[0].words if found else None


def failures(seeds: Sequence[int], backend: str | None = None) -> list[str]:
    """A line for each graph that is wrong, or for all where they are wrong together alone. Some are filed by themselves."""
    graphs = [Graph(seed, KINDS) for seed in seeds]
    try:
        found = wrong(graphs, backend)
        if len(graphs) > 1 and backend is None:
            found += [Wrong(i, words) for i in range(0, len(graphs), FILED) if (words := _message(graphs[i]))]
    except Exception as error:
        found = [Wrong(-1, f"{type(error).__name__}: {error}")]
    if not found:
        return []
    if len(graphs) > 1 and any(one.graph < 0 for one in found):  # nobody knows which one: half of them, and the others
        middle = len(graphs) // 2
        lines = failures(seeds[:middle], backend) + failures(seeds[middle:], backend)
    else:
        wrong_ones = sorted({one.graph for one in found})
        lines = [line for i in wrong_ones if (line := _shortest(seeds[i], graphs[i], backend))]
    if lines or all(ANOTHER_BATCH in one.words for one in found):
        return lines
    return [f"{one.words}, but alone it is right: seeds {list(seeds)}" for one in found]


def _shortest(seed: int, graph: Graph, backend: str | None) -> str | None:
    """What is wrong with the shortest beginning that is."""
    for length in range(1, len(graph.nodes) + 1):
        shorter = graph if length == len(graph.nodes) else Graph(seed, KINDS, length)
        if (words := _message(shorter, backend)) is not None:
            return f"{words}: {shorter.words()}"
    return None
