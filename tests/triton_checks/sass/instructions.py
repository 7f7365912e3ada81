"""Machine code as nvdisasm prints it: instructions with their guards and operands, and where labels lead."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
"""Bytes of a thread, by a part of an instruction's name; 4 where it has none."""


class Unsupported(Exception):
    """Code that this does not run."""


@dataclass(frozen=True)
class Instruction:
    name: str
    guard: str
    operands: tuple[str, ...]

    @property
    def parts(self) -> list[str]:
        return self.name.split(".")


def program(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """(instructions, label -> the one behind it)."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line.strip()):
            labels[label[1]] = len(found)
        elif instruction := _LINE.match(line):
            operands = (
                tuple(o.strip().replace(".reuse", "") for o in instruction[4].split(",")) if instruction[4] else ()
            )
            found.append(Instruction(instruction[3], instruction[2] or "PT", operands))
    return found, labels


def behind(name: str, count: int) -> str:
    """The register so many behind one."""
    if name.endswith("Z"):
        return name
    start, number = re.match(r"^(U?R)(\d+)$", name).groups()  # type: ignore[union-attr]
    return f"{start}{int(number) + count}"
