"""Products: matrices, layers, einsum."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx.table import op


@op("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm", builds=True)
def gemm(
    build: Any,
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    """alpha op(A) op(B) + beta C. Factors go into what is constant."""
    if transA:
        a = build.call(transposed, a)
    weight = b if transB else build.call(transposed, b)  # as nn.Linear has it, [N, K]
    weight = weight if alpha == 1.0 else build.call(scaled, weight, by=alpha)
    if c is None or beta == 0.0:
        return build.call(linear, a, weight)
    bias = c if beta == 1.0 else build.call(scaled, c, by=beta)
    outputs, known = build.shape_of_constant(weight), build.shape_of_constant(bias)
    if outputs is not None and known in (outputs[:1], (1, *outputs[:1])):
        return build.call(linear, a, weight, bias if len(known) == 1 else build.call(flat, bias))
    return build.call(added, build.call(linear, a, weight), bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def added(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2)


def scaled(x: Tensor, *, by: float) -> Tensor:
    return x * by


@op("FusedMatMul", domain="com.microsoft")
def fused_matmul(a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Tensor:
    made = torch.matmul(transposed(a) if transA else a, transposed(b) if transB else b)
    return made if alpha == 1.0 else made * alpha


@op("Einsum")
def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *operands)


@op("Det")
def det(x: Tensor) -> Tensor:
    return torch.linalg.det(x)
