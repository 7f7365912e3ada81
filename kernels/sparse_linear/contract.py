"""Sparse linear: y = act(x W^T + bias), where most of W is zero and only the rest is stored.

Axes: x [M, K], W [N, K], bias [N], y [M, N]. It means what `linear` means for the dense W, to the bit where that is an
integer; float32 sums may be in another order. W is float32, or int8 with `weight_scale [N]`; x as in `linear`: float32, or
int8 with a static scale, or int8 with a scale per row. GPUs have bfloat16 W too, int8 W with float32 x, and int4 W in 2:4 with
int8 x. A zero that is not stored cannot turn an infinity into NaN, so the rule is that of int8: a float32 row of x with a NaN
or an infinity gives NaN in all of y's row.

W is stored in one of three forms, told by the tensors of the stage:

tensors                          form                                  module
weight [entries], columns,       unstructured, compressed rows         rtaccel.formats.csr
  row_starts
weight [blocks, b, c], columns,  blocks of b outputs by c inputs       rtaccel.formats.blocks
  row_starts
weight [N, 2 * groups],          two of every four inputs              rtaccel.formats.semi
  positions                      (uint8 [N, groups]: int4 values)

The attribute `layout` says how a kernel is to pack it, whatever it is stored as: "window" (any pattern), "blocks" (any
pattern, made for blocks as tall as a vector) or "2:4". `rtaccel.plan.sparse` picks the fastest, or the dense operator.
`lower` gives every kernel the same: the numbers other than zero as rows of ascending columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.stage_traits import Fusion
from rtaccel.core.traits import Weights
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import blocks, csr, int4, semi
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.linear import contract_weights
from rtaccel.kernels.linear.convert import only_weight

LAYOUTS = ("window", "blocks", "2:4")

WEIGHTS_ALONE = ("bfloat16", "w8a16")
"""Schemes whose activations are float32 beside smaller weights, as linear/contract_weights.py has them; of GPUs alone."""

STRUCTURE = ("columns", "row_starts", "positions")
"""Tensors that say where the values are."""


def storage_format(tensors: Mapping[str, Tensor]) -> str:
    """The form that a weight is stored in: "csr", "blocks" or "2:4"."""
    if "positions" in tensors:
        return "2:4"
    return "blocks" if tensors["weight"].dim() == 3 else "csr"


def check(op: str, tensors: Mapping[str, Tensor], n: int, k: int) -> None:
    """Raises FormatError where the tensors store no weight [n, k]: no kernel ever sees an index that does not fit."""
    weight = tensors["weight"]
    if WeightFormat.of(weight) is WeightFormat.INT4 and storage_format(tensors) == "2:4" and weight.dim() == 2:
        semi.check(op, int4.unpack(weight, 2 * weight.shape[1]), tensors["positions"], n, k)
        return
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.int8):
        raise FormatError(op, f"weight: {weight.dtype}", "float32, bfloat16 or int8", "Pack it with rtaccel.formats.")
    match storage_format(tensors):
        case "2:4":
            semi.check(op, weight, tensors["positions"], n, k)
        case "blocks":
            blocks.check(op, weight, tensors["columns"], tensors["row_starts"], n, k)
        case _:
            if weight.dim() != 1:
                raise FormatError(op, f"weight {list(weight.shape)}", "[entries] or [blocks, b, c]", csr.STEP)
            csr.check(op, weight, tensors["columns"], tensors["row_starts"], n, k)


def check_stage(op: str, stage: Stage, tensors: Mapping[str, Tensor]) -> None:
    """`check` for other tensors in a stage."""
    check(op, tensors, stage.outputs[0].width, stage.inputs[0].width)


def dense_weight(tensors: Mapping[str, Tensor], n: int, k: int) -> Tensor:
    """W [n, k] with its zeros, of tensors that passed `check`."""
    weight = tensors["weight"]
    match storage_format(tensors):
        case "2:4" if WeightFormat.of(weight) is WeightFormat.INT4:
            return int4.pack(semi.unpack(int4.unpack(weight, 2 * weight.shape[1]), tensors["positions"], k))
        case "2:4":
            return semi.unpack(weight, tensors["positions"], k)
        case "blocks":
            return blocks.unpack(weight, tensors["columns"], tensors["row_starts"], n, k)
        case _:
            return csr.unpack(weight, tensors["columns"], tensors["row_starts"], k)


def stored(
    weight: Tensor, layout: str, block: tuple[int, int] = (16, 16), packed_int4: bool = False
) -> dict[str, Tensor]:
    """The tensors that store a dense weight [N, K] for a layout; int4 values [N, K] as int8, where int4 is asked for. Raises
    FormatError where it is no 2:4 weight."""
    if layout == "2:4" and packed_int4:
        values, positions = semi.pack(weight, "sparse_linear")
        return {"weight": int4.pack(values), "positions": positions}
    if layout == "2:4":
        return dict(zip(("weight", "positions"), semi.pack(weight, "sparse_linear")))
    packed = blocks.pack(weight, block) if layout == "blocks" else csr.pack(weight)
    return dict(zip(("weight", "columns", "row_starts"), packed))


def dense_stage(stage: Stage) -> Stage:
    """The stage of `linear` that means the same."""
    n, k = stage.outputs[0].width, stage.inputs[0].width
    check("sparse_linear", stage.tensors, n, k)
    rest = {name: t for name, t in stage.tensors.items() if name not in STRUCTURE}
    attrs = {name: a for name, a in stage.attrs.items() if name not in ("layout", "stored_bytes", "entries")}
    tensors = {**rest, "weight": dense_weight(stage.tensors, n, k)}
    return Stage("linear", stage.name, stage.inputs, stage.outputs, tensors, attrs)


def sparse_stage(dense: Stage, layout: str, block: tuple[int, int] = (16, 16)) -> Stage:
    """A stage of `linear` as one of this operator; int4 weights in 2:4 alone. Raises FormatError as `stored` does."""
    weight = dense.tensors["weight"]
    packed_int4 = WeightFormat.of(weight) is WeightFormat.INT4
    if packed_int4:
        weight = int4.unpack(weight, dense.inputs[0].width)
    made = stored(weight, layout, block, packed_int4)
    return with_structure(dense, made, layout)


def with_structure(dense: Stage, made: Mapping[str, Tensor], layout: str) -> Stage:
    attrs = {
        **dense.attrs,
        "layout": layout,
        "stored_bytes": sum(t.numel() * t.element_size() for t in made.values()),
        "entries": made["weight"].numel(),
    }
    return Stage("sparse_linear", dense.name, dense.inputs, dense.outputs, {**dense.tensors, **made}, attrs)


def lower(stage: Stage) -> Mapping[str, Any]:
    """As `linear` lowers, with the weight as values, columns and row_starts, and the layout."""
    if stage.inputs[0].width > linear.MAX_K:
        raise UnsupportedProblem(
            "sparse_linear", f"K = {stage.inputs[0].width}", f"K <= {linear.MAX_K}", "Split the layer or keep it dense."
        )
    dense = dense_stage(stage)
    values, columns, row_starts = csr.pack(dense.tensors["weight"])
    return {
        **linear.lower(dense),
        "weight": values,
        "columns": columns.to(torch.int32),
        "row_starts": row_starts,
        "layout": stage.attrs["layout"],
    }


def reference(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
    (y,) = linear.reference(dense_stage(stage), x, row_scale)
    return (nonfinite(x, y),)


def nonfinite(x: Tensor, y: Tensor) -> Tensor:
    """y, NaN in the rows where a float32 x is not finite."""
    if not x.is_floating_point():
        return y
    return torch.where(torch.isfinite(x).all(1, keepdim=True), y, torch.full_like(y, float("nan")))


def tolerance(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> Tolerance:
    return linear.tolerance(dense_stage(stage), x, row_scale)


def cost(problem: Problem) -> Cost:
    k, n, m = problem.in_widths[0], problem.out_widths[0], problem.matrix_rows
    size = {"float32": 4, "int8": 1}
    moved = int(problem.attrs["stored_bytes"]) + 8 * n
    moved += m * k * size[problem.in_dtypes[0]] + m * n * size[problem.out_dtypes[0]]
    return Cost(bytes=moved, flops=2 * m * int(problem.attrs["entries"]))


_WINDOWS = {  # lanes, slots, window, bytes of a step and its start: of each instruction set, see cpu_window.h and byte_window.h
    torch.int8: ((16, 4, 128, 130), (16, 4, 32, 130), (8, 4, 32, 66), (4, 4, 64, 34), (4, 4, 256, 34)),
    torch.float32: ((16, 2, 32, 162), (8, 2, 256, 82), (4, 2, 256, 42)),
}


def packed_bytes(stage: Stage) -> int:
    """Windows: no more steps than windows side by side would take, each as often as the fullest row of a tile needs it."""
    n, k, layout = stage.outputs[0].width, stage.inputs[0].width, stage.attrs["layout"]
    weight = dense_weight(stage.tensors, n, k)
    size = weight.element_size()
    beside = 8192 + 40 * (n + 64)
    if layout != "window" or weight.dtype not in _WINDOWS:
        return beside + (n + 64) * (k + 64) * size * 5 // 4 + 2 * (n // 4 + 4) * (k + 4)
    most = 0
    for lanes, slots, window, step in _WINDOWS[weight.dtype]:
        tiles, wide = -(-n // (4 * lanes)), -(-k // window)
        padded = torch.nn.functional.pad(weight != 0, (0, wide * window - k, 0, tiles * 4 * lanes - n))
        counts = padded.view(tiles, 4 * lanes, wide, window).sum(3)
        steps = int((counts.amax(1) + slots - 1).div(slots, rounding_mode="floor").sum()) + tiles  # by twos
        most = max(most, steps * 4 * step * 5 // 4)  # pairs in one window may be 17 / 15 as many, words take 11 / 9
    return beside + most


def make_stage(k: int, n: int, scheme: str, layout: str, density: float, seed: int = 0, **options: Any) -> Stage:
    """A stage with random weights; scheme and options as the `make_stage` of linear's two contracts take them."""
    g = torch.Generator().manual_seed(seed + 1)
    make = contract_weights.make_stage if scheme in contract_weights.KINDS else linear.make_stage
    dense = make(k, n, scheme, seed=seed, **options)
    weight = dense.tensors["weight"]
    block = {0: (16, 16), 1: (8, 8), 2: (1, 16), 3: (5, 3)}[(n + k) % 4]
    if layout == "2:4":
        order = torch.rand(n, semi.groups_of(k), 4, generator=g).argsort(2).flatten(1)[:, :k]
        kept = order < 2
    elif layout == "blocks":
        rows, columns = blocks.grid(n, k, block)
        kept = torch.rand(rows, columns, generator=g) < density
        kept = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    else:
        kept = torch.rand(n, k, generator=g) < density
    packed_int4 = WeightFormat.of(weight) is WeightFormat.INT4
    pruned = (int4.unpack(weight, k) if packed_int4 else weight) * kept
    pruned[n // 2] = 0  # a row without a weight
    pruned = int4.pack(pruned) if packed_int4 else pruned
    return sparse_stage(
        Stage(dense.op, dense.name, dense.inputs, dense.outputs, {**dense.tensors, "weight": pruned}, dense.attrs),
        layout,
        block,
    )


def _case(rows: int, stage: Stage, label: str) -> Case:
    k, n = stage.inputs[0].width, stage.outputs[0].width
    act, out = stage.attrs["activation"], stage.outputs[0].dtype
    name = f"M{rows}-N{n}-K{k}-{stage.attrs['layout']}-{label}-{act}-{out}"
    return Case(name, stage, lambda seed: linear.make_inputs(stage, rows, seed))


_SCHEMES = ("float32", "static", "dynamic")


def cases() -> Iterator[Case]:
    sizes = ((1, 1, 1, 0.5), (1, 16, 16, 0.3), (2, 5, 3, 0.4), (3, 17, 31, 0.2), (1, 70, 130, 0.1), (4, 64, 128, 0.05),
             (5, 129, 65, 0.3), (7, 33, 190, 1.0), (1, 100, 300, 0.02), (13, 70, 257, 0.1), (6, 40, 64, 0.0))  # fmt: skip
    for rows, n, k, density in sizes:
        for layout in LAYOUTS:
            for scheme in _SCHEMES:
                yield _case(rows, make_stage(k, n, scheme, layout, density), scheme)
            yield _case(rows, make_stage(k, n, "static", layout, density, activation="relu", out="int8"), "static")
    for act, parameter in (("leaky_relu", 0.1), ("elu", 1.3), ("gelu", 0.0), ("tanh", 0.0)):
        for layout in LAYOUTS:
            for scheme in _SCHEMES:
                yield _case(3, make_stage(37, 45, scheme, layout, 0.3, activation=act, parameter=parameter), scheme)
            options: dict[str, Any] = {"activation": act, "parameter": parameter, "out": "int8"}
            yield _case(3, make_stage(37, 45, "static", layout, 0.3, **options), "static")
    for rows, n, k, density in (
        (1, 1, 1, 0.5),
        (2, 70, 130, 0.1),
        (3, 40, 64, 0.0),
        (4, 33, 190, 0.3),
        (9, 129, 65, 0.3),
    ):
        for layout in LAYOUTS:
            for scheme in WEIGHTS_ALONE:
                yield _case(rows, make_stage(k, n, scheme, layout, density, activation="silu"), scheme)
        for scheme in ("w4a8-static", "w4a8-dynamic"):
            for size in (k, 4 * k):
                yield _case(
                    rows,
                    make_stage(size, n, scheme, "2:4", density, activation="relu", group_size=32 * min(rows, 8)),
                    scheme,
                )


class SparseFusion(Fusion):
    def rows(self, stage: Stage, source: Stage) -> Stage | None:
        """Where rtaccel.plan.sparse_gpu holds that to be faster."""
        return (
            replace(stage, op="fused_sparse_linear", inputs=source.inputs) if stage.attrs.get("rows_in_front") else None
        )

    def static(self, stage: Stage, source: Stage, rows: int) -> Stage | None:
        """In its launch where the model holds that to be faster, else in one before that marks rows."""
        from rtaccel.kernels.fused_sparse_linear.contract import fused  # which imports this contract

        quant = source.outputs[0].quant
        if quant is None or stage.tensors["weight"].dtype.itemsize > 1:
            return None
        return fused(stage, source.inputs[0], quant)


OPERATOR = register_operator(
    Operator(
        name="sparse_linear",
        axes={"x": ("M", "K"), "weight_scale": ("N",), "bias": ("N",), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        check=check_stage,
        make_stage=make_stage,
        weights=Weights(only_weight),
        fusion=SparseFusion(),
    )
)
