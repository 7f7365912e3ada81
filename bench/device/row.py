"""A planned row: what it is called, the function that measures it, how long that should take and how long it may."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rtaccel.core.errors import FormatError

MEASURED, PASSED, FAILED = "measured", "passed", "failed"
ERROR, HANG, CRASH, STICKY, MEMORY = "error", "hang", "crash", "sticky CUDA error", "out of memory"
LEFT_OUT, NOT_RUN = "left out", "not run"
OUTCOMES = (MEASURED, PASSED, FAILED, ERROR, HANG, CRASH, STICKY, MEMORY, LEFT_OUT, NOT_RUN)


@dataclass(frozen=True)
class Row:
    """measure: "module:function", called with `arguments`; it returns the fields of a row, or yields those of several.

    family: rows of one family that follow each other may share a process. estimate_s: what it should take with all its
    compiling; a row is left out where less time is left. limit_s: when its process is ended. memory_mib: free memory of the card
    that it needs; 0 for what needs no card. check: it tells right from wrong, and its failure fails the run.
    early: before kernels are built ahead. canary: what to give up where this row fails, see `supervisor.py`.
    prepare: "module:function" that builds its kernels ahead with `prepare_arguments`. more: names of further rows it yields.
    """

    name: str
    measure: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    estimate_s: float = 5.0
    limit_s: float = 30.0
    memory_mib: int = 0
    check: bool = False
    early: bool = False
    canary: str = ""
    prepare: str = ""
    prepare_arguments: Mapping[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.more)

    def faster(self, factor: float) -> Row:
        """The same row of a rehearsal: its times divided. A busy machine is not a hang, so the limit stays above that."""
        return replace(self, estimate_s=self.estimate_s / factor, limit_s=max(self.limit_s / factor, 10.0))

    def task(self) -> dict[str, Any]:
        return asdict(self)


def resolve(target: str) -> Callable[..., Any]:
    """The function that "module:function" names. Raises FormatError."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise FormatError("bench.device", repr(target), "module:function", "Write for example bench.device.table:rows.")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FormatError(
            "bench.device", repr(target), f"a function that can be imported ({error})", "Check the name."
        ) from error
    return found
