"""Which sizes of which operator are measured or looked at: rows of a shapes file, or KEY=VALUE words.

[[linear]]
name = "16x64-int8-relu"     # ends up in the benchmark's name
rows = 1                     # the batch; the rest are arguments of the operator's make_stage
n = 16
k = 64
scheme = "static"
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, operator, operators, whole_input
from rtaccel.core.stage import Problem, Stage


def make_stage(op: str, arguments: Mapping[str, Any], where: str = "--case") -> Stage:
    """A stage with random weights. Raises FormatError for an operator without a maker, or arguments it does not take."""
    make = operator(op).make_stage  # a name that is none is refused, with those there are
    if make is None:
        raise FormatError(
            where, op, "an operator whose contract has make_stage", "Measure its conformance case instead."
        )
    try:
        return make(**arguments)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise FormatError(where, f"{op}({given})", "arguments of its make_stage", f"It said: {error}.") from error


def parse_case(pairs: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """rows (1 where it is not given), and the arguments: numbers, true and false as such, the rest as text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key or key in arguments:
            raise FormatError("--case", repr(pair), "KEY=VALUE, each key once", "Write rows=1 k=64, for example.")
        arguments[key] = _value(text)
    return _rows(arguments.pop("rows", 1), "--case"), arguments


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _rows(rows: Any, where: str) -> int:
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise FormatError(where, f"rows = {rows!r}", "a whole number of rows, 1 or more", "Correct it.")
    return rows


def random_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Normal floats and int8 over its whole range, so that no multiplication is by a row of zeros. A row scale is positive."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for index, value in enumerate(stage.inputs):
        shape = (rows, *value.shape)
        if value.dtype == "int8":
            found.append(torch.randint(-128, 128, shape, generator=g, dtype=torch.int8))
        elif value.dtype == "int64":
            found.append(torch.full(shape, whole_input(stage), dtype=torch.int64))
        elif index and stage.inputs[0].dtype == "int8":
            found.append(torch.rand(shape, generator=g) * 0.02 + 1e-3)
        else:
            found.append(torch.randn(shape, generator=g))
    return tuple(found)


def cases(file: Path | None = None, wanted: Callable[[str], bool] = lambda op: True) -> list[tuple[str, Case]]:
    """(operator, case) for every row of the file; for an operator without rows, the conformance case that moves most.

    wanted: which operators, by name.

    Raises FormatError for a file that cannot be read, is no TOML, or has tables or rows that are no cases.
    """
    table = {} if file is None else read(file)
    known = operators()
    if unknown := set(table) - set(known):
        raise FormatError(str(file), ", ".join(sorted(unknown)), "operators: " + ", ".join(known), "Correct it.")
    found = []
    for name in sorted(filter(wanted, known)):
        rows = [_case(name, dict(row), str(file)) for row in table.get(name, [])]
        found += [(name, case) for case in rows or [_largest(name)]]
    return found


def read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Tables of rows by operator."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    expected = "a TOML file with tables such as [[linear]]"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError("shapes file", f"{file} ({error})", expected, "Correct the path or the file.") from error
    if bad := [
        k for k, rows in table.items() if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows)
    ]:
        raise FormatError("shapes file", f"{file}: {', '.join(bad)}", expected, "Write [[linear]], with two brackets.")
    return table


def _case(op: str, row: dict[str, Any], where: str) -> Case:
    if missing := {"name", "rows"} - set(row):
        raise FormatError(where, f"a row of {op} without {' and '.join(sorted(missing))}", "name and rows", "Add them.")
    label, rows = str(row.pop("name")), _rows(row.pop("rows"), where)
    stage = make_stage(op, row, where)
    return Case(label, stage, lambda seed: random_inputs(stage, rows, seed))


@cache
def _largest(op: str) -> Case:
    return max(operator(op).cases(), key=_bytes)


def _bytes(case: Case) -> int:
    rows = case.make(0)[0].shape[0]
    return operators()[case.stage.op].cost(Problem.of(case.stage, rows)).bytes
