"""Formats of weights: what the numbers of a stored tensor are, which its dtype alone does not say."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from rtaccel.core.errors import FormatError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class WeightFormat(Enum):
    """One way to store the numbers of a weight: the one place that knows which dtype means which.

    label: its name in texts, which `str()` gives. dtype: of the tensor that holds it, as torch calls it. bits: of one
    number. int4 is the one format whose dtype says something else: a byte of it holds two numbers (rtaccel.formats.int4).
    """

    FLOAT32 = ("float32", "float32", 32)
    BFLOAT16 = ("bfloat16", "bfloat16", 16)
    FLOAT16 = ("float16", "float16", 16)
    FLOAT8 = ("float8", "float8_e4m3fn", 8)
    INT8 = ("int8", "int8", 8)
    INT4 = ("int4", "uint8", 4)

    def __init__(self, label: str, dtype: str, bits: int) -> None:
        self.label, self.dtype, self.bits = label, dtype, bits

    def __str__(self) -> str:
        return self.label

    @property
    def integer(self) -> bool:
        return self in (WeightFormat.INT8, WeightFormat.INT4)

    @property
    def packed(self) -> bool:
        """Whether a byte holds several numbers, so that the tensor is narrower than the weight."""
        return self.bits < 8

    @property
    def grouped(self) -> bool:
        """Whether the numbers have a scale per group of inputs, so many as the attribute `group_size` says."""
        return self is WeightFormat.INT4

    def bytes_of(self, numbers: int) -> int:
        """Bytes of so many numbers."""
        return (numbers * self.bits + 7) // 8

    @classmethod
    def of(cls, weight: Tensor | torch.dtype) -> WeightFormat:
        """The format that a tensor of a stage, or its dtype, has. Raises FormatError for a dtype that holds no weights."""
        name = str(getattr(weight, "dtype", weight)).removeprefix("torch.")
        for found in cls:
            if found.dtype == name:
                return found
        expected = ", ".join(f"{f.dtype} ({f})" if f.dtype != f.label else f.label for f in cls)
        raise FormatError("weight", name, f"one of {expected}", "Convert it, or quantize it with rtaccel.formats.")
