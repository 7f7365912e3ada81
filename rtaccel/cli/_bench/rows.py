"""Rows of a budgets file that `rtaccel bench` does not measure: left out this time, of another CPU, or misspelt."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtaccel.backends.cpu import isas
from rtaccel.cli._bench.suite import items
from rtaccel.cli._bench.sweep import without_point
from rtaccel.core.errors import FormatError


@dataclass(frozen=True)
class Unused:
    """left_out: rows of what the command did not ask for. elsewhere: of an instruction set that this CPU does not have."""

    left_out: tuple[str, ...]
    elsewhere: tuple[str, ...]


def unused_rows(rows: Iterable[str], chosen: Sequence[str], args: argparse.Namespace) -> Unused:
    """Raises FormatError for rows that name nothing there is: a limit that is judged for nothing is no limit."""
    rows = list(rows)
    found: dict[str, list[str]] = {"left_out": [], "elsewhere": [], "wrong": []}
    known = set(chosen)
    for row in (row for row in rows if row not in known):
        name = without_point(row)
        if ":" in name:
            kind = "left_out" if _is_target(name) else "wrong"
        else:
            known |= _names_near(name, args)
            kind = "left_out" if name in known else "elsewhere" if name in names_on_any_cpu(known) else "wrong"
        found[kind].append(row)
    if found["wrong"]:
        free = sorted(known - set(rows))
        got = "; ".join(_with_near(row, free) for row in found["wrong"])
        raise FormatError(
            "bench", f"--budgets with {got}", "rows that name what there is", "See `rtaccel bench --list`."
        )
    return Unused(tuple(found["left_out"]), tuple(found["elsewhere"]))


def names_on_any_cpu(names: Iterable[str]) -> set[str]:
    """The names, and what they are called in each instruction set of this kind of CPU: linear/64x64/cpu_amx."""
    found = set(names)
    for name in names:
        stem, _, isa = name.rpartition("_")
        if isa in isas() and "/cpu" in stem:
            found |= {f"{stem}_{other}" for other in isas()}
    return found


def _names_near(row: str, args: argparse.Namespace) -> set[str]:
    """Names of the row's operator; of every operator where there is none of that name."""
    shapes = Path(args.shapes) if args.shapes else None
    try:
        return {item.name for item in items([f"{row.partition('/')[0]}/*"], shapes, args)}
    except FormatError:
        return {item.name for item in items([], shapes, args)}


def _is_target(text: str) -> bool:
    """Whether there is such a name, read from the source: nothing is imported for a row that is not measured."""
    where, _, name = text.rpartition(":")
    try:
        if where.endswith(".py"):
            source = Path(where)
        else:
            spec = importlib.util.find_spec(where)
            if spec is None or spec.origin is None:
                return False
            source = Path(spec.origin)
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, ImportError, ValueError, SyntaxError):
        return False
    return name in {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
    } | {
        alias.asname or alias.name
        for n in tree.body
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for alias in n.names
    }


def _with_near(row: str, free: Sequence[str]) -> str:
    near = difflib.get_close_matches(row, free, 3, 0.6)
    return f'"{row}"' + (f" (did you mean {', '.join(near)}?)" if near else "")
