"""Fourier transforms: products with the matrix of the transform."""

from __future__ import annotations

import torch

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels.fourier import contract

MOST = 1 << 22
"""Numbers of a matrix that is written; more make a large file of a slow model."""


@form("fourier")
def fourier(w: Writer, stage: Stage) -> None:
    x, y, dims = stage.inputs[0], stage.outputs[0], tuple(stage.attrs["dims"])
    made = contract.line_lengths(stage.attrs["kind"], stage.attrs["n"], stage.attrs["wanted"])[1]
    if dims[-1] * made > MOST:
        w.refuse(f"is of {dims[-1]} numbers to {made}: its matrix would have more than {MOST}")
    matrix = contract.transformed(stage, torch.eye(dims[-1], dtype=torch.float64)[None]).float()[0]
    seen = w.whole(w.strided(w.real(x), x.steps * x.width, dims, tuple(stage.attrs["place"])), dims)
    w.put(y, w.as_value(w.node("MatMul", seen, w.constant(matrix, f"{stage.name}.matrix")), y))
