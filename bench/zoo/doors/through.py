"""All doors by name, in the order in which a network goes through them: what is quick and needs no other compilation first."""

from __future__ import annotations

from collections.abc import Callable

from bench.zoo.doors import calls, files, values
from bench.zoo.doors.outcome import Note
from bench.zoo.doors.subject import Subject

Door = Callable[[Subject], Note | None]

DOORS: dict[str, Door] = {
    "values": calls.values, "again": calls.again, "run and bind": calls.bound, "NumPy": calls.numpy, "strided": calls.strided,
    "batch": calls.batch, "NaN": values.nan, "half inputs": values.half, "other dtypes": values.dtype, "copy": calls.copied,
    "save": files.saved, "without torch": files.without_torch, "ONNX": files.onnx, "second": calls.second, "W8A8": files.eight,
    "W8A8 NaN": files.eight_nan, "W8A8 save": files.eight_saved, "bfloat16": values.half_model,
}  # fmt: skip
