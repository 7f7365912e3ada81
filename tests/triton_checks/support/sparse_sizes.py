"""Sparse stages of any size, for forms that are declared by their sizes: a tenth of the blocks or of the weights, or 2:4."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from rtaccel.core.stage import Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.fused_sparse_linear import contract as fused
from rtaccel.kernels.sparse_linear import contract

DENSITY = 0.1


def of_size(stage: Stage, spec: Specialisation) -> Stage:
    """A stage of `sparse_linear`, or of `fused_sparse_linear`, as the small one but with the form's N, K and blocks."""
    n, k = spec.constants.get("N", 16), spec.constants["K"]
    found = re.search(r"_(\d+)x(\d+)_N", spec.name)
    b, c = (int(found[1]), int(found[2])) if found else (1, 1)
    layout, dtype = stage.attrs["layout"], stage.tensors["weight"].dtype
    g = torch.Generator().manual_seed(n + k)
    if layout == "2:4":
        kept = (torch.arange(k) + torch.randint(4, (n, 1), generator=g)) % 4 < 2
    else:
        layout = "blocks" if b > 1 else "window"
        block = (b, c) if b > 1 else (1, 1)
        grid = torch.rand(-(-n // block[0]), -(-k // block[1]), generator=g) < DENSITY
        kept = grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    numbers = torch.randint(1, 8, (n, k), generator=g, dtype=torch.int8) * kept
    weight = int4.pack(numbers) if WeightFormat.of(dtype) is WeightFormat.INT4 else numbers.to(dtype)
    tensors = {"weight": weight}
    for name in ("weight_scale", "bias", "group_scale"):
        if name in stage.tensors:
            shape = (n, -(-k // int(stage.attrs["group_size"]))) if name == "group_scale" else (n,)
            tensors[name] = torch.ones(shape)
    x, *rest = stage.inputs
    inputs, outputs = (replace(x, width=k), *rest), (replace(stage.outputs[0], width=n),)
    attrs = {name: a for name, a in stage.attrs.items() if name not in ("layout", "stored_bytes", "entries")}
    made = contract.sparse_stage(Stage("linear", "sized", inputs, outputs, tensors, attrs), layout, (b, c))
    if "_inside_" in spec.name:
        inside = fused.fused(made, Value("x", k), x.quant)
        return replace(inside, attrs={**inside.attrs, "rows_in_front": 1})
    return fused.fused(made, Value("x", k)) if "_rows8_" in spec.name else made
