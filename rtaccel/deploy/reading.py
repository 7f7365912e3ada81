"""What a file from `rt.save` says, read back: the other side of `record.py`, for tools that look at a model.

The file was checked before, by `rt.load`: this trusts it. Numbers and texts alone; of tensors it gives the dtype and size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtaccel.deploy.record import DTYPES, FLOAT, INT, ROLES, TEXT

HEADER = struct.Struct("<8sII4Q4q6I3Q")
_VALUE, _EDGE, _STAGE, _ATTRIBUTE = struct.Struct("<IIqq"), struct.Struct("<4I8q"), struct.Struct("<IIHHI"), 16


@dataclass(frozen=True)
class ValueRead:
    dtype: str
    role: str
    steps: int
    width: int


@dataclass(frozen=True)
class StageRead:
    """attrs: numbers and texts, and of a tensor (dtype, elements)."""

    op: str
    name: str
    inputs: tuple[ValueRead, ...]
    outputs: tuple[ValueRead, ...]
    attrs: Mapping[str, Any]

    @property
    def weight_dtype(self) -> str:
        return str(self.attrs.get("weight_dtype", ""))


@dataclass(frozen=True)
class PlanRead:
    """most_samples: that one call may have, None for any number. weight_bound: more bytes than packed weights take."""

    streams: int
    weight_bound: int
    most_samples: int | None
    values: tuple[ValueRead, ...]
    stages: tuple[StageRead, ...]


def read_plan(whole: bytes) -> PlanRead:
    """The plan of a file that `rt.load` takes."""
    start = 8 + struct.unpack_from("<Q", whole)[0]
    fields = HEADER.unpack_from(whole, start)
    plan_bytes, streams, most = fields[4], fields[7], fields[10]
    value_count, stage_count, input_count, output_count, text_bytes, _ = fields[11:17]
    texts = whole[start + HEADER.size : start + HEADER.size + text_bytes]
    at = start + HEADER.size + text_bytes
    at += -(at - start) % 8
    values = []
    for _ in range(value_count):
        dtype, role, steps, width = _VALUE.unpack_from(whole, at)
        values.append(ValueRead(DTYPES[dtype], ROLES[role], steps, width))
        at += _VALUE.size
    leads = [_EDGE.unpack_from(whole, at + i * _EDGE.size) for i in range(input_count)]
    at += (input_count + output_count) * _EDGE.size
    stages = []
    for _ in range(stage_count):
        stage, at = _stage(whole, at, start, texts, values)
        stages.append(stage)
    assert at == start + plan_bytes
    return PlanRead(streams, fields[6], _most_samples(streams, most, leads[0]), tuple(values), tuple(stages))


def _most_samples(streams: int, most: int, edge: tuple[int, ...]) -> int | None:
    lead, sizes = edge[2], edge[4:]
    if streams or lead == 0:
        return streams or 1
    each = 1
    for size in sizes[1:lead]:
        each *= max(size, 1)
    return None if most < 0 else most * each


def _stage(whole: bytes, at: int, start: int, texts: bytes, values: list[ValueRead]) -> tuple[StageRead, int]:
    op, name, inputs, outputs, count = _STAGE.unpack_from(whole, at)
    at += _STAGE.size
    ids = struct.unpack_from(f"<{inputs + outputs}I", whole, at)
    at += 4 * len(ids)
    at += -(at - start) % 8
    attrs = {}
    for _ in range(count):
        key, kind, dtype, elements = struct.unpack_from("<HBBI", whole, at)
        form = {INT: "<q", FLOAT: "<d"}.get(kind, "<Q")
        (number,) = struct.unpack_from(form, whole, at + 8)
        if kind in (INT, FLOAT):
            value: Any = number
        else:
            value = _text(texts, number) if kind == TEXT else (DTYPES[dtype], elements)
        attrs[_text(texts, key)] = value
        at += _ATTRIBUTE
    ports = [values[i] for i in ids]
    return StageRead(_text(texts, op), _text(texts, name), tuple(ports[:inputs]), tuple(ports[inputs:]), attrs), at


def _text(texts: bytes, at: int) -> str:
    return texts[at : texts.index(b"\0", at)].decode()
