"""Reads the text of TTIR, Triton's first representation of a kernel, into operations and blocks; for the checks beside it.

TTIR says what a kernel computes before anything is laid out for a card: every load and store with its tile, every index with
its width. It is the same text for all architectures, and differs little between versions of triton.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LOC = re.compile(r' ?loc\((?:[^()"]|"[^"]*"|\((?:[^()"]|"[^"]*")*\))*\)')
_STRING = re.compile(r'"[^"]*"')
_NAME = re.compile(r"%[\w.]+(?:#\d+)?")
_RESULTS = re.compile(r"^((?:%[\w.]+(?::\d+)?(?:, )?)+) = (.*)$")
_KIND = re.compile(r'^"?([a-z_]+\.[\w.]+)"?')
_TENSOR = re.compile(r"tensor<((?:\d+x)*)(.+)>$")


@dataclass(frozen=True)
class Type:
    """shape: of a tensor, () for a scalar. element: `i32`, `f32`, `!tt.ptr<i8>`, ..."""

    shape: tuple[int, ...]
    element: str

    @classmethod
    def of(cls, text: str) -> Type:
        found = _TENSOR.match(text.strip())
        if found is None:
            return cls((), text.strip())
        return cls(tuple(map(int, filter(None, found[1].split("x")))), found[2])

    @property
    def pointee(self) -> str:
        return self.element.removeprefix("!tt.ptr<").split(",")[0].rstrip(">")

    @property
    def bits(self) -> int:
        """Of an integer; `index` counts as 64. 0 for what is none."""
        if self.element == "index":
            return 64
        return int(self.element[1:]) if re.fullmatch(r"i\d+", self.element) else 0


def bytes_of(element: str) -> float:
    """Of one number in memory."""
    return int(re.search(r"\d+", element)[0]) / 8 if element[0] in "if" or element.startswith("bf") else 1.0  # type: ignore[index]


@dataclass
class Block:
    arguments: list[str]
    operations: list[Operation] = field(default_factory=list)


@dataclass
class Operation:
    """name: of the operation. text: its line. type: of its results, the first where there are several types."""

    name: str
    results: list[str]
    operands: list[str]
    text: str
    type: Type
    regions: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Function:
    """parameters: name -> type, in order."""

    name: str
    parameters: dict[str, Type]
    body: Block


def parse(ttir: str) -> Function:
    """The public function of a module."""
    lines = [_LOC.sub("", line).strip() for line in ttir.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#loc")]
    start = next(i for i, line in enumerate(lines) if line.startswith("tt.func public"))
    head = lines[start]
    name = re.search(r"@([\w.]+)", head)[1]  # type: ignore[index]
    parameters = {p: Type.of(t) for p, t in re.findall(r"(%[\w.]+): ([^{},]+?)(?: \{[^}]*\})?(?=[,)])", head)}
    body = Block(list(parameters))
    _read(lines, start + 1, body)
    return Function(name, parameters, body)


def _read(lines: list[str], at: int, block: Block) -> int:
    """Fills the block up to its closing brace; the index of that line."""
    while not lines[at].startswith("}"):
        line = lines[at]
        if line.startswith("^bb"):
            block.arguments = re.findall(r"(%[\w.]+):", line)
            at += 1
            continue
        made = _operation(line)
        block.operations.append(made)
        at += 1
        if line.endswith("{"):
            while True:
                region = Block(_loop_arguments(made, line) if not made.regions else [])
                made.regions.append(region)
                at = _read(lines, at, region)
                closing = lines[at]
                at += 1
                if not closing.endswith("{"):
                    break
            if made.name in ("tt.reduce", "tt.scan"):
                made.type = Type.of(closing.rsplit("->", 1)[1].strip().strip("()"))
    return at


def _loop_arguments(made: Operation, line: str) -> list[str]:
    """`scf.for %i = ... iter_args(%a = %b)`: the counter and %a. `scf.while (%a = %b)`: %a."""
    if made.name == "scf.for":
        counter = re.match(r"[^%]*(%[\w.]+) = ", line.split("scf.for", 1)[1])
        given = re.search(r"iter_args\(([^)]*)\)", line)
        return [counter[1], *(re.findall(r"(%[\w.]+) = ", given[1]) if given else [])]  # type: ignore[index]
    if made.name == "scf.while":
        return re.findall(r"(%[\w.]+) = ", line.split("scf.while", 1)[1])
    return []


def _operation(line: str) -> Operation:
    found = _RESULTS.match(line)
    results: list[str] = []
    rest = line
    if found is not None:
        for word in found[1].split(", "):
            base, _, count = word.partition(":")
            results += [f"{base}#{i}" for i in range(int(count))] if count else [base]
        rest = found[2]
    kind = _KIND.match(rest)
    name = kind[1] if kind else rest.split(" ")[0]
    before, _, types = rest.rpartition(" : ")
    plain = _STRING.sub("", before or rest)
    operands = _NAME.findall(plain)
    if name == "scf.for":
        bounds = re.search(r"= (%[\w.#]+) to (%[\w.#]+) step (%[\w.#]+)", plain)
        given = re.search(r"iter_args\(([^)]*)\)", plain)
        operands = [*bounds.groups(), *(re.findall(r"= (%[\w.#]+)", given[1]) if given else [])]  # type: ignore[union-attr]
    elif name == "scf.while":
        operands = re.findall(r"= (%[\w.#]+)", plain)
    return Operation(name, results, operands, rest, _result_type(name, types))


def _result_type(name: str, types: str) -> Type:
    for mark in (" -> ", " to "):
        if mark in types:
            return Type.of(types.rsplit(mark, 1)[1].rstrip(" {").strip("()").split(", ")[0])
    first = Type.of(re.split(r", (?![^<]*>)", types)[0])
    if name == "tt.load":
        return Type(first.shape, first.pointee)
    if name in ("arith.cmpi", "arith.cmpf"):
        return Type(first.shape, "i1")
    if name == "arith.select":
        return Type.of(re.split(r", (?![^<]*>)", types)[-1])
    return first
