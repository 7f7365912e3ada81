"""Random graphs and networks by Triton's kernels in the interpreter, against float64 or the kernels of the CPU.

    TRITON_INTERPRET=1 python tests/triton_checks/support/random_models.py graphs FIRST COUNT

graphs: in float32, against float64. w8a8: graphs that calibration makes int8. networks: layers in every scheme. Results of all
are full of NaN before a kernel writes them. tests/gpu/test_triton_interpreter.py runs a part.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.backends import require

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support.generators.graphs.check import KINDS, Graphs, failures, inputs
from tests.support.generators.graphs.program import SAMPLES, Graph
from tests.triton_checks.support.quick_interpreter import quicken
from tests.triton_checks.support.random_networks import network

NEAR = {"bfloat16": 3e-2, "float8": 1e-2, "a16": 2e-2}
"""Parts of the largest result by which one may be off, where a scheme rounds sums or inputs to few digits."""
TOGETHER = 6
"""Graphs of a compiled model."""


def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fill(*given: Any, **named: Any) -> Tensor:
        t = make(*given, **named)
        return t if t.is_complex() else t.fill_(float("nan") if t.is_floating_point() else 85)

    return fill


def apart(given: tuple[Tensor, ...], by_triton: Any, by_cpu: Any, near: float) -> str | None:
    """What the two plans of a model do not agree on."""
    found, wanted = ((y,) if isinstance(y, Tensor) else y for y in (by_triton(*given), by_cpu(*given)))
    for got, want in zip(found, wanted, strict=True):
        if got.shape != want.shape:
            return f"{list(got.shape)} instead of {list(want.shape)}"
        most = want[want.isfinite()].abs().max().item() if want.isfinite().any() else 0.0
        off = ~torch.isclose(got, want, rtol=0.0, atol=near * most + 1e-30, equal_nan=True)
        if off.any():
            return f"{got[off][0]:.6g} instead of {want[off][0]:.6g}, {int(off.sum())} of {off.numel()}"
    return None


def in_int8(seed: int) -> str | None:
    graph = Graph(seed, KINDS)
    model = Graphs.named([graph]).eval()
    options: dict[str, Any] = {"scheme": "w8a8", "calibration": [inputs(SAMPLES, 5)], "verify": False}
    plans = [rt.compile(model, inputs(SAMPLES, 0), backend=backend, **options) for backend in ("triton", None)]
    for samples in (1, SAMPLES + 1):
        if (words := apart(inputs(samples, samples), *plans, near=1e-4)) is not None:
            return f"{words}: {graph.words()}"
    return None


def in_any_scheme(seed: int) -> str | None:
    model, shape, scheme = network(seed)
    draw = random.Random(seed)
    rows = draw.choice([1, 2, 3, 5, 8, 9, 17])
    options: dict[str, Any] = {"scheme": scheme, "verify": False}
    columns = 10 ** torch.empty(shape[-1]).uniform_(-1.5, 1.5) if draw.random() < 0.4 else torch.ones(shape[-1])
    with torch.no_grad():  # calibration brings such columns to one range, where that serves
        for weight in model.parameters():
            if weight.dim() == 2 and weight.shape[1] == len(columns):
                weight /= columns
    if "static" in str(scheme):
        options["calibration"] = [torch.randn(64, *shape) * columns]
    plans = [
        rt.compile(model, (torch.randn(rows, *shape),), backend=backend, **options) for backend in ("triton", None)
    ]
    near = next((number for word, number in NEAR.items() if word in str(scheme)), 2e-5)
    for samples in (rows, draw.choice([1, 2, 4, 7, 13])):
        given = torch.randn(samples, *shape) * columns * draw.choice([1, 3])
        if "a8" in str(scheme) and draw.random() < 0.3:  # int8 has none: a sample of NaN, and no other
            given[draw.randrange(samples)].view(-1)[0] = draw.choice([float("nan"), float("inf")])
        if (words := apart((given,), *plans, near=near)) is not None:
            return f"{words}: seed {seed}, {scheme}, {samples} samples [{rows}], {shape}, {model}"
    return None


def wrong(what: str, seeds: range) -> Iterator[str]:
    """A line for each model whose results differ, or that raises."""
    if what == "graphs":
        for first in seeds[::TOGETHER]:
            yield from failures(range(first, min(first + TOGETHER, seeds.stop)), "triton")
        return
    for seed in seeds:
        try:
            words = (in_int8 if what == "w8a8" else in_any_scheme)(seed)
        except Exception as error:
            words = f"{type(error).__name__}: {error}: seed {seed}"
        if words is not None:
            yield words


def main(what: str, first: int, count: int) -> None:
    require("triton")
    quicken()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in ("empty", "empty_like"):
        setattr(torch, name, filled(getattr(torch, name)))
    found = []
    for words in wrong(what, range(first, first + count)):
        found.append(words)
        print(words, flush=True)
    print(f"{count} ran")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
