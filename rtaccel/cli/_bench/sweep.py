"""`rtaccel bench --sweep batch=1,8,64`: every target and kernel at each point of the axes."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtaccel.cli._bench.suite import Item, items
from rtaccel.core.errors import FormatError

Point = Mapping[str, Any]
"""Axis -> value."""


def _whole(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise ValueError(text)
    return number


AXES: Mapping[str, Callable[[str], Any]] = {"batch": _whole, "threads": _whole, "scheme": str, "backend": str}
"""batch: samples of a call; the example is repeated. The others are the options of the same name, of targets alone."""


def parse_sweep(words: Sequence[str]) -> dict[str, list[Any]]:
    """Axis -> values. Raises FormatError for a word that is no axis, an axis twice, and values that make no sense."""
    axes: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            values = [AXES[name](value.strip()) for value in text.split(",")] if equals and name not in axes else []
        except (KeyError, ValueError):
            values = []
        if not values or "" in values or len(set(values)) != len(values):
            known = ", ".join(AXES)
            raise FormatError("--sweep", repr(word), f"AXIS=VALUE,VALUE once each, of {known}", "Write batch=1,8,64.")
        axes[name] = values
    return axes


def swept(
    words: Sequence[str], shapes: Path | None, options: argparse.Namespace, axes: Mapping[str, Sequence[Any]]
) -> list[tuple[Item, Point]]:
    """Items with their points; one point without axes where there are none."""
    if not axes:
        return [(item, {}) for item in items(words, shapes, options)]
    only_targets = sorted(set(axes) - {"batch"})
    if only_targets and (not words or any(":" not in word for word in words)):
        expected = "targets alone: a kernel has its own scheme and runs on one thread"
        raise FormatError(
            "--sweep", f"{', '.join(only_targets)} with kernels", expected, "Sweep batch, or name targets."
        )
    found: list[tuple[Item, Point]] = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        given = {name: value for name, value in point.items() if name != "batch"}
        here = argparse.Namespace(**(vars(options) | given))
        for item in items(words, shapes, here, point.get("batch")):
            said = ", ".join(f"{name}={value}" for name, value in point.items())
            found.append((Item(f"{item.name} [{said}]", item.make), point))
    return found


def without_point(name: str) -> str:
    """The name of an item as it is without a sweep."""
    return name.partition(" [")[0] if name.endswith("]") and " [" in name else name
