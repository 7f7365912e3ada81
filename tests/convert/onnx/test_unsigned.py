"""Whole numbers without a sign, of which torch computes with bytes alone: as NumPy computes, where words end and anywhere."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")

from onnx import TensorProto, helper

import rtaccel as rt
from tests.convert.onnx.test_forms import model_of

BINARY: dict[str, Any] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide, "Mod": np.remainder, "Equal": np.equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Max": np.maximum, "Min": np.minimum, "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor, "LEFT": np.left_shift, "RIGHT": np.right_shift,
}  # fmt: skip


def numbers(bits: int, seed: int) -> np.ndarray:
    """Any, and those where words end."""
    ends = [n for p in (1, 8, 15, 16, 31, 32, 63, 64) if p <= bits for n in (2**p - 1, 2 ** (p - 1), 2 ** (p - 1) + 1)]
    drawn = np.random.default_rng(seed).integers(0, 2**bits - 1, 64 - len(ends), dtype=np.uint64)
    made = np.concatenate([np.array(ends, np.uint64), drawn]).astype(f"uint{bits}")
    return np.random.default_rng(seed + 1).permutation(made).reshape(4, 16)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("name", BINARY)
def test_of_two_numbers(name: str, bits: int) -> None:
    kind = getattr(TensorProto, f"UINT{bits}")
    shifts = name in ("LEFT", "RIGHT")
    node = (
        helper.make_node("BitShift", ["a", "b"], ["y"], direction=name)
        if shifts
        else helper.make_node(name, ["a", "b"], ["y"])
    )
    module = rt.from_onnx(model_of([node], {"a": (kind, ["n", 16]), "b": (kind, ["n", 16])}, ["y"]))
    for seed in range(8):
        a, b = numbers(bits, seed), numbers(bits, seed + 100)
        b = b % bits if shifts else np.where(b == 0, 1, b).astype(a.dtype)
        got, want = module(torch.from_numpy(a), torch.from_numpy(b)).numpy(), BINARY[name](a, b)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_of_one_number(bits: int) -> None:
    kind = getattr(TensorProto, f"UINT{bits}")
    a = numbers(bits, 3)
    for name, want in (("BitwiseNot", ~a), ("Identity", a)):
        module = rt.from_onnx(model_of([helper.make_node(name, ["a"], ["y"])], {"a": (kind, ["n", 16])}, ["y"]))
        np.testing.assert_array_equal(module(torch.from_numpy(a)).numpy(), want)
