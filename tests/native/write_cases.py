"""Writes every conformance case of every operator to a file that rtaccel_native_tests replays, without Python.

    python tests/native/write_cases.py build/cases.bin

So the native kernels are held to the references of the contracts where Python and torch do not run: under emulated
processors, and with the sanitizers. The format is that of tests/native/replay.cc: little-endian, 8-byte integers,
strings and tensors with their length in bytes in front.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Operator, impls, operators
from rtaccel.core.stage import Problem, Value
from rtaccel.deploy import record
from rtaccel.kernels._core.cpu import DTYPES, _packed_bound

CODES = {name: number for number, name in enumerate(record.DTYPES)} | {
    "bool": record.DTYPES.index("uint8")
}  # rta_dtype
INT, FLOAT, TEXT, TENSOR = range(4)  # rta_attr_kind


class Writer:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def integers(self, *values: int) -> None:
        self.file.write(struct.pack(f"<{len(values)}q", *values))

    def data(self, content: bytes) -> None:
        self.integers(len(content))
        self.file.write(content)

    def text(self, content: str) -> None:
        self.data(content.encode())

    def tensor(self, t: Tensor) -> None:
        t = t.detach().contiguous()
        self.data((t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes())

    def attribute(self, name: str, value: Any) -> None:
        self.text(name)
        if isinstance(value, tuple):
            value = torch.tensor(value, dtype=torch.int32)
        if isinstance(value, Tensor):
            self.integers(TENSOR, CODES[DTYPES[value.dtype]], value.numel())
            self.tensor(value)
        elif isinstance(value, str):
            self.integers(TEXT)
            self.text(value)
        elif isinstance(value, float):
            self.integers(FLOAT)
            self.file.write(struct.pack("<d", value))
        else:
            self.integers(INT, int(value))

    def values(self, values: tuple[Value, ...], tensors: tuple[Tensor, ...], tolerance: Any = None) -> None:
        self.integers(len(values))
        for value, t in zip(values, tensors):
            self.integers(CODES[value.dtype], value.steps, value.width)
            self.tensor(t)
            if tolerance is not None:
                self.tensor(torch.as_tensor(tolerance.atol, dtype=torch.float64).broadcast_to(t.shape))

    def case(self, op: Operator, case: Case, seed: int) -> None:
        inputs = case.make(seed)
        expected = op.reference(case.stage, *inputs)
        tolerance = op.tolerance(case.stage, *inputs)
        stage = case.stage.matrices() if op.by_row else case.stage
        first = stage.inputs[0]
        row = first.steps * first.width
        self.text(op.name)
        self.text(case.id)
        self.integers(_packed_bound(stage), inputs[0].numel() // row if row else inputs[0].shape[0], tolerance.steps)
        self.values(stage.inputs, inputs)
        self.values(stage.outputs, expected, tolerance)
        attrs = dict(op.lower(stage))
        weight_dtype = Problem.of(case.stage, inputs[0].shape[0]).weight_dtype
        if weight_dtype is not None:
            attrs["weight_dtype"] = weight_dtype
        self.integers(len(attrs))
        for name, value in attrs.items():
            self.attribute(name, value)


OF_GRAPHS = {"takes_mark", "gives_mark", "ticks"}
"""Attributes of stages in a graph of a GPU, which no CPU takes."""


def main(path: Path) -> None:
    native = {impl.op for impl in impls("cpu")}
    cases = [(op, case) for name, op in sorted(operators().items()) if name in native for case in op.cases()]
    cases = [(op, case) for op, case in cases if not OF_GRAPHS & case.stage.attrs.keys()]
    with path.open("wb") as file:
        writer = Writer(file)
        writer.text("rtaccel cases 1")
        writer.integers(len(cases))
        for index, (op, case) in enumerate(cases):
            writer.case(op, case, seed=index)
    print(f"{len(cases)} conformance cases of {len({op.name for op, _ in cases})} operators in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
