"""What each form of a sparse W8A8 layer would take on an H100, beside the form that `rtaccel.plan.sparse_gpu` takes.

    python -m bench.device.predict.choices --write

The launches are those of a captured plan, counted as `bench/device/layers.py` counts one. A test holds the chooser to the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.device import layers
from bench.device.launches import Code, compiled
from bench.device.predict.single import launches_of_group
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract as sparse
from rtaccel.plan.group import Subgraph

RESULT = Path(__file__).parents[2] / "results" / "predictions-choices-h100.json"

PATTERNS = ("unstructured 50%", "unstructured 90%", "unstructured 95%", "16x16 blocks 80%", "64x64 blocks 90%", "2:4")
SIZES = ((4096, (1, 2, 4, 16, 64)), (1024, (1, 16)))
"""(inputs and outputs, rows of x)."""

FEW_ROWS = 4
"""For which kernels can round x themselves."""


def rows() -> Iterator[tuple[int, int, str]]:
    """(rows of x, inputs and outputs, pattern)."""
    for size, counts in SIZES:
        for m in counts:
            for pattern in PATTERNS:
                yield m, size, pattern


def title(m: int, size: int, pattern: str) -> str:
    return f"{m}x{size}x{size} {pattern}"


def kept(n: int, pattern: str) -> Tensor:
    """Which weights of [n, n] are there."""
    g = torch.Generator().manual_seed(n)
    if pattern == "2:4":
        return (torch.rand(n, n // 4, 4, generator=g).argsort(2) < 2).view(n, n)
    how, part = pattern.rsplit(" ", 1)
    density = 1 - int(part.rstrip("%")) / 100
    if how == "unstructured":
        return torch.rand(n, n, generator=g) < density
    side = int(how.split("x")[0])
    blocks = torch.rand(n // side, n // side, generator=g) < density
    return blocks.repeat_interleave(side, 0).repeat_interleave(side, 1)


def dense_stage(size: int, pattern: str) -> Stage:
    """A linear layer of int8 x with one scale."""
    made = linear.make_stage(size, size, "static")
    weight = torch.where(made.tensors["weight"] == 0, 1, made.tensors["weight"]).to(torch.int8)
    return replace(made, tensors={**made.tensors, "weight": weight * kept(size, pattern)})


def label_of(stage: Stage) -> str:
    """Of the form that a stage is computed in."""
    layout = str(stage.attrs.get("layout", "dense"))
    if layout == "blocks":
        layout += " {}x{}".format(*stage.tensors["weight"].shape[1:])
    return layout + (", x in its launch" if stage.attrs.get("rows_in_front") else "")


def forms(dense: Stage, m: int, pattern: str) -> Iterator[Stage]:
    """Those that there are, and that the pattern could be worth."""
    yield dense
    made = [sparse.sparse_stage(dense, "window", (1, 1))]
    if pattern == "2:4" and m <= FEW_ROWS:
        made.append(sparse.sparse_stage(dense, "2:4", (1, 4)))
    elif "blocks" in pattern:
        side = int(pattern.split("x")[0])
        made = [sparse.sparse_stage(dense, "blocks", (side, side))]
    for stage in made:
        yield stage
        if m <= FEW_ROWS:
            yield replace(stage, attrs={**stage.attrs, "rows_in_front": 1})


def us_of(stage: Stage, m: int, code: Code = compiled) -> tuple[float, float]:
    """(low, high), with the rounding of x and what hands on its NaN."""
    x, q = Value("x", stage.inputs[0].width), replace(stage.inputs[0], name="q")
    quantize = Stage("quantize", "quantize", (x,), (q,))
    ends = (GraphIO.matrix(x),), (GraphIO.matrix(stage.outputs[0]),)
    group = Subgraph((quantize, replace(stage, inputs=(q,))), *ends)
    told = layers.told(f"{m}x{x.width}x{stage.outputs[0].width}", launches_of_group(group, m, code))
    return told["low"], told["high"]


def predicted() -> dict[str, dict[str, tuple[float, float]]]:
    """By layer and form. Compiles every form for sm_90."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    dense_us: dict[tuple[int, int], tuple[float, float]] = {}
    for m, size, pattern in rows():
        of: dict[str, tuple[float, float]] = {}
        for stage in forms(dense_stage(size, pattern), m, pattern):
            label, known = label_of(stage), (m, size)
            of[label] = dense_us[known] if label == "dense" and known in dense_us else us_of(stage, m)
        dense_us[m, size] = of["dense"]  # whatever the pattern is
        found[title(m, size, pattern)] = of
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.device.predict.choices", description="Forms of sparse layers."
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    found: Any = predicted()
    if args.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    for name, of in found.items():
        print(name, of)


if __name__ == "__main__":
    main()
