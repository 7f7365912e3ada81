"""How numbers travel: as they are, or float32 in 8 or 4 bits."""

from __future__ import annotations

from dataclasses import dataclass

from rtaccel.core.errors import FormatError

COPIES = {"float32": 0, "int8": 1, "int64": 2}
"""dtype -> the code of its copy in a frame."""


@dataclass(frozen=True)
class Wire:
    """name: as it is asked for. code: of float32 values in a frame; others travel as they are."""

    name: str
    code: int
    bits: int

    def code_of(self, dtype: str) -> int:
        """The code of a tensor of a dtype. Raises FormatError for one that does not travel."""
        if dtype not in COPIES:
            raise FormatError("frame", f"a tensor of {dtype}", f"one of {', '.join(COPIES)}", "Convert it.")
        return self.code if dtype == "float32" else COPIES[dtype]

    def tensor_bytes(self, dtype: str, rows: int, width: int) -> int:
        """Of a tensor's numbers in a frame. rows: of its first dimension; width: numbers in each."""
        if dtype != "float32":
            return rows * width * {"int8": 1, "int64": 8}[dtype]
        return rows * width * 4 if self.bits == 32 else rows * (8 + (width * self.bits + 7) // 8)


WIRES = {wire.name: wire for wire in (Wire("float32", 0, 32), Wire("int8", 3, 8), Wire("int4", 4, 4))}
"""float32 as it is; in 8 or 4 bits with a least value and a step for each row of the first dimension."""


def wire_of(name: object) -> Wire:
    """Raises FormatError for a name that there is not."""
    if not isinstance(name, str) or name not in WIRES:
        raise FormatError("frame", f"wire={name!r}", f"one of {', '.join(WIRES)}", "Pass one of these names.")
    return WIRES[name]
