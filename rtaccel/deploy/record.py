"""What the core is told when a plan is built, written down: the first tensor of a file.

All numbers are little-endian, and records begin at multiples of 8 bytes. `native/model/artifact.cc` reads them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtaccel.core.stage import GraphIO, Stage
from rtaccel.deploy.container import ALIGNMENT, FORMAT_VERSION, Part

DTYPES = ("float32", "int8", "int64", "int32", "uint8", "bfloat16", "float16", "int16")
"""In the order of rta_dtype."""

SAFETENSORS = {
    "float32": "F32", "int8": "I8", "int64": "I64", "int32": "I32", "int16": "I16", "uint8": "U8", "bfloat16": "BF16",
    "float16": "F16",
}  # fmt: skip
BYTES = {"float32": 4, "int8": 1, "int64": 8, "int32": 4, "uint8": 1, "bfloat16": 2, "float16": 2, "int16": 2}
ROLES = ("inner", "input", "output", "state")
INT, FLOAT, TEXT, TENSOR = range(4)
RESERVED = ("plan", "constants", "states", "prepacked", "pad.prepacked")
"""Names of parts that are no weights."""


@dataclass(frozen=True)
class Edge:
    """An input or output of a file: sizes that are samples, and open, are -1."""

    name: str
    dtype: str
    lead: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, port: GraphIO) -> Edge:
        first = (-1,) * min(port.lead, 1)
        middle = port.middle or (-1,) * max(port.lead - 1, 0)
        return cls(name, port.value.dtype, port.lead, (*first, *middle, *port.trailing))


class Texts:
    """A table of texts that end in a zero byte; each is in it once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.data = bytearray()

    def __call__(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.data)
            self.data += text.replace("\0", "?").encode() + b"\0"
        return self._places[text]


@dataclass(frozen=True)
class Kept:
    """A tensor of a stage in the file: the part it is in, its first byte there, its dtype and elements."""

    part: str
    offset: int
    dtype: str
    count: int


@dataclass
class Recorder:
    """Takes what `kernels._core.cpu.tell` says, in place of a plan. stages: the same, for the names of their tensors."""

    stages: Sequence[Stage]
    values: bytearray = field(default_factory=bytearray)
    parts: dict[str, Part] = field(default_factory=dict)
    constants: bytearray = field(default_factory=bytearray)
    count: int = 0
    _records: list[tuple[Stage, list[int], list[int], dict[str, Any]]] = field(default_factory=list)
    _known: dict[tuple[str, bytes], Kept] = field(default_factory=dict)

    def value(self, dtype: str, steps: int, width: int, role: str) -> int:
        self.values += struct.pack("<IIqq", _dtype(dtype), ROLES.index(role), steps, width)
        self.count += 1
        return self.count - 1

    def stage(self, op: str, kernel: str, inputs: list[int], outputs: list[int], attrs: Mapping[str, Any]) -> None:
        """kernel: not written, the machine that loads the file chooses its own."""
        stage = self.stages[len(self._records)]
        kept = {
            name: self._keep(stage, name, *value) if isinstance(value, tuple) else value
            for name, value in attrs.items()
        }
        self._records.append((stage, inputs, outputs, kept))

    def _keep(self, stage: Stage, name: str, address: int, dtype: str, count: int) -> Kept:
        """A tensor, once however often it is used: logical weights as parts of their own, what is worked out of them together."""
        data = ctypes.string_at(address, count * BYTES[dtype]) if count else b""
        known = self._known.get((dtype, data))
        if known is not None:
            return known
        own = stage.tensors.get(name)
        if own is None or own.numel() != count:
            kept = Kept("constants", len(self.constants), dtype, count)
            self.constants += data + b"\0" * (-len(data) % ALIGNMENT)
        else:
            kept = Kept(self._new_name(f"{stage.name}.{name}"), 0, dtype, count)
            self.parts[kept.part] = Part(SAFETENSORS[dtype], tuple(own.shape), data)
        self._known[dtype, data] = kept
        return kept

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.parts or name in RESERVED:
            number += 1
            name = f"{wanted}.{number}"
        return name

    def plan(self, head: Head, inputs: Sequence[Edge], outputs: Sequence[Edge], where: Where) -> bytes:
        """The bytes of the plan; as many wherever the parts lie."""
        texts = Texts()
        for *_, attrs in self._records:  # first, so that 16 bits are enough for where they are
            for attr in attrs:
                texts(attr)
        edges = b"".join(_edge(texts, edge, i) for i, edge in enumerate((*inputs, *outputs)))
        stages = b"".join(self._stage(texts, record, where) for record in self._records)
        name = texts(head.name)
        table = bytes(texts.data)
        rest = bytes(self.values) + edges + stages
        # So many zeros behind the texts that the plan ends at a multiple of 64.
        records = table + b"\0" * (-(len(table) + len(rest)) % ALIGNMENT) + rest
        counts = (self.count, len(self._records), len(inputs), len(outputs), len(records) - len(rest), name)
        numbers = (where.start, 128 + len(records), where.file_bytes, head.packed_bytes)
        samples = (head.streams, head.memory, head.least, head.most)
        states = (where.places.get("states", 0), head.state_bytes, 0)
        return (
            b"RTAPLAN\n"
            + struct.pack("<II4Q4q6I3Q", FORMAT_VERSION, 0x01020304, *numbers, *samples, *counts, *states)
            + records
        )

    def _stage(self, texts: Texts, record: tuple[Stage, list[int], list[int], dict[str, Any]], where: Where) -> bytes:
        stage, inputs, outputs, attrs = record
        head = struct.pack("<IIHHI", texts(stage.op), texts(stage.name), len(inputs), len(outputs), len(attrs))
        ids = struct.pack(f"<{len(inputs) + len(outputs)}I", *inputs, *outputs)
        ids += b"\0" * (-len(head + ids) % 8)
        return head + ids + b"".join(_attribute(texts, name, value, where) for name, value in attrs.items())


@dataclass(frozen=True)
class Head:
    """What is said of the whole. least, most: samples of a call, most -1 for any number."""

    name: str
    packed_bytes: int
    streams: int
    memory: int
    least: int
    most: int
    state_bytes: int = 0


@dataclass(frozen=True)
class Where:
    """Where things are in the file: the data, its end, and the parts from the start of the data."""

    start: int = 0
    file_bytes: int = 0
    places: Mapping[str, int] = field(default_factory=dict)


def _dtype(name: str) -> int:
    return DTYPES.index("uint8" if name == "bool" else name)


def _edge(texts: Texts, edge: Edge, value: int) -> bytes:
    shape = (*edge.shape, *(0,) * (8 - len(edge.shape)))
    return struct.pack("<4I8q", texts(edge.name), value, edge.lead, len(edge.shape), *shape)


def _attribute(texts: Texts, name: str, value: Any, where: Where) -> bytes:
    if isinstance(value, Kept):
        place = where.places.get(value.part, 0) + value.offset
        return struct.pack("<HBBIQ", texts(name), TENSOR, _dtype(value.dtype), value.count, place)
    if isinstance(value, str):
        return struct.pack("<HBBIQ", texts(name), TEXT, 0, 0, texts(value))
    if isinstance(value, float):
        return struct.pack("<HBBId", texts(name), FLOAT, 0, 0, value)
    return struct.pack("<HBBIq", texts(name), INT, 0, 0, int(value))
