"""Element types of ONNX as torch has them."""

from __future__ import annotations

import torch

from rtaccel.core.errors import UnsupportedProblem

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip
"""TensorProto.DataType -> dtype."""

NAMES = {8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2",
         20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1"}  # fmt: skip


def dtype_of(kind: int) -> torch.dtype:
    """Raises UnsupportedProblem for a type that no module computes in."""
    if kind not in DTYPES:
        raise UnsupportedProblem(
            "from_onnx", f"a tensor of {NAMES.get(kind, f'type {kind}')}", "a real or whole number, or a truth value",
            "Cast it in the file.",
        )  # fmt: skip
    return DTYPES[kind]
