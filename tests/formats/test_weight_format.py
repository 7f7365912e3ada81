"""The format of a weight as a value: which dtype means which, and that kernels and errors speak of formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import rtaccel as rt
from rtaccel.core.registry import impls, operators
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.kernels.linear import contract_weights

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("format", WeightFormat, ids=str)
def test_every_format_is_one_dtype_and_back(format: WeightFormat) -> None:
    dtype = getattr(torch, format.dtype)
    assert WeightFormat.of(dtype) is WeightFormat.of(torch.zeros(2, 2).to(dtype)) is format
    assert format.bits == (4 if format is WeightFormat.INT4 else 8 * dtype.itemsize)
    assert format.packed == format.grouped == (format is WeightFormat.INT4)
    assert format.bytes_of(6) == 6 * format.bits // 8
    assert str(format) == f"{format}" == format.label


def test_bytes_of_an_odd_row_are_whole() -> None:
    assert WeightFormat.INT4.bytes_of(7) == int4.row_bytes(7) == int4.pack(torch.zeros(1, 7, dtype=torch.int8)).numel()
    assert int4.unpack(torch.full((1, 4), int4.ZEROS, dtype=int4.DTYPE), 7).count_nonzero() == 0


def test_a_dtype_that_holds_no_weights_is_refused() -> None:
    stage = Stage("linear", "s", (Value("x", 2),), (Value("y", 2),), {"weight": torch.zeros(2, 2, dtype=torch.float64)})
    with pytest.raises(rt.FormatError, match=r"float64; expected one of .*uint8 \(int4\)"):
        Problem.of(stage, 1)


def test_every_case_with_weights_has_a_format() -> None:
    found = {case.stage.weight_format for op in operators().values() for case in op.cases()}
    assert found >= {None, *WeightFormat} - {WeightFormat.FLOAT16}


def test_reasons_speak_of_int4() -> None:
    """Where a kernel refuses packed weights for what they are, the reason does not name the bytes."""
    problem = Problem.of(contract_weights.make_stage(64, 8, "w4a16"), 1)
    assert problem.weight_format is WeightFormat.INT4
    reasons = [impl.supports(problem) or "" for impl in impls("portable") + impls("cpu", "linear")]
    assert any("int4" in reason for reason in reasons)
    assert not any("uint8" in reason for reason in reasons)


def test_nobody_else_knows_which_dtype_is_int4() -> None:
    """Kernels, plans and modules ask for the format. What is left are bytes that are no weights."""
    asks = re.compile(
        r"dtype\)?\s*(==|!=|in|not in)\s*\(?[^)\n]*(torch\.uint8|\"uint8\")|weight_dtype\s*(==|!=|in|not in)"
    )
    folders = [ROOT / "kernels", *(ROOT / "rtaccel" / room for room in ("plan", "nn", "convert"))]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    wrong = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in files
        if file.name != "stored.py"  # the description of a layer, as bytes
        for line in file.read_text(encoding="utf-8").splitlines()
        if asks.search(line)
    ]
    assert len(files) > 100
    assert wrong == []
