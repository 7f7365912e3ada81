"""How long each stage takes alone: rivals timed in turn by the processor's counter, within the native core; the least counts.

A table that is taken one scheme after the other on a shared machine ranks them wrongly: each meets another load. So every stage
that a search may use is called a few times in every round, and keeps the fastest round's median.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.passes.program import FallbackStep, Program
from rtaccel.core.log import log
from rtaccel.core.settings import stage_times
from rtaccel.core.stage import GraphIO, Problem, Stage
from rtaccel.plan.choose import Choice, choose
from rtaccel.plan.timing import random_inputs, time_stage

ROUNDS = 24
BURST_US = 40.0
"""Of one stage in a round: long enough that its weights are in the caches, short enough that nothing comes between."""

MAX_CALLS = 64

TURN_US = 50.0
"""Of whole calls from Python, each time it is their turn: the shorter, the more of them meet no other work."""

VERSION = 1
"""Of the file."""

Key = str


@dataclass
class Entry:
    """One stage: its kernel, and microseconds once it is timed."""

    choice: Choice
    us: float | None = None
    plan: Any = None
    tensors: tuple[Any, ...] = ()
    bursts: list[float] = field(default_factory=list)

    @property
    def native(self) -> bool:
        return self.choice.impl.backend == "cpu"


class CostTable:
    """Microseconds of stages, by what their time depends on: sizes, formats, kernel, and zeros where they are left out.

    rows: the batch size. cache: a file of the times of this processor, instruction set and version; None for no file.
    """

    def __init__(self, rows: int, cache: Path | None = None) -> None:
        self._rows, self._cache = rows, cache
        self._entries: dict[Key, Entry] = {}
        self._keys: dict[Any, Key] = {}
        self._known = _read(cache)

    def add(self, program: Program) -> tuple[Key, ...]:
        """The keys of a program's stages, in order; new ones are to be timed. Calls of PyTorch are the same in every program
        and are not among them."""
        found = []
        for step in program.steps:
            if isinstance(step, FallbackStep):
                continue
            found += [self._key(stage) for stage in step.group.stages]
        return tuple(found)

    def _key(self, stage: Stage) -> Key:
        problem = Problem.of(stage, self._rows)
        zeros = id(stage.tensors.get("weight")) if stage.attrs.get("layout", "dense") != "dense" else 0
        plain = tuple(sorted((k, v) for k, v in stage.attrs.items() if isinstance(v, (str, int, bool))))
        sizes = tuple(sorted((k, tuple(t.shape)) for k, t in stage.tensors.items()))
        quants = tuple(v.quant is not None for v in (*stage.inputs, *stage.outputs))
        facts = (str(problem), stage.weight_format, plain, sizes, quants, zeros)
        if facts not in self._keys:
            choice = choose(stage, self._rows)
            key = f"{problem} {stage.weight_format} {choice.impl.name} {plain} {sizes} {quants}"
            key += f" #{len(self._keys)}" if zeros else ""
            self._keys[facts] = key
            self._entries[key] = Entry(choice, None if zeros else self._known.get(key))
        return self._keys[facts]

    def native(self, keys: Sequence[Key]) -> int:
        """How many of the stages have a native kernel."""
        return sum(self._entries[key].native for key in keys)

    def measure(self, deadline: float = float("inf"), rounds: int = ROUNDS) -> None:
        """Times what is new, with all of its rivals where one of them is. deadline: of `monotonic`."""
        fresh = [entry for entry in self._entries.values() if entry.us is None]
        if not fresh:
            return
        for entry in fresh:
            entry.us = None
        native = [entry for entry in fresh if entry.native]
        for entry in native:
            _prepare(entry, self._rows)
        done = 0
        for done in range(1, rounds + 1):
            for entry in native:
                entry.bursts.append(_burst(entry))
            if monotonic() > deadline and done >= 3:
                break
        for entry in native:
            entry.us = min(entry.bursts)
            entry.plan, entry.tensors = None, ()
        for entry in fresh:
            if not entry.native:
                entry.us = time_stage(entry.choice)
        log.debug("cost table: %d stages timed in %d rounds", len(fresh), done)
        self._write()

    def us(self, keys: Sequence[Key]) -> float:
        """Sum over stages that were measured."""
        return sum(self._entries[key].us or 0.0 for key in keys)

    def _write(self) -> None:
        if self._cache is None:
            return
        kept = {key: e.us for key, e in self._entries.items() if e.us is not None and e.native and "#" not in key}
        content = {"version": VERSION, "machine": machine(), "us": {**self._known, **kept}}
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            part = self._cache.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(content), encoding="utf-8")
            part.replace(self._cache)  # whole or not at all, whoever writes beside
        except OSError as error:
            log.info("cost table: %s is not written: %s", self._cache, error)


def _prepare(entry: Entry, rows: int) -> None:
    from rtaccel.kernels._core.cpu import build

    stage = entry.choice.stage
    inputs = random_inputs(stage, rows, "cpu")
    outputs = tuple(torch.empty(rows, *v.shape, dtype=getattr(torch, v.dtype)) for v in stage.outputs)
    ports = [GraphIO.matrix(v) for v in stage.inputs], [GraphIO.matrix(v) for v in stage.outputs]
    entry.plan = build([(stage, entry.choice.impl.name)], *ports)
    entry.tensors = inputs, outputs if len(outputs) > 1 else outputs[0]
    entry.bursts = []


def _burst(entry: Entry) -> float:
    """Median of a few calls in a row, after one that brings the weights near."""
    inputs, outputs = entry.tensors
    about = entry.bursts[-1] if entry.bursts else 1.0
    calls = max(5, min(MAX_CALLS, int(BURST_US / max(about, 0.05))))
    counts, ns = entry.plan.profile(inputs, outputs, calls + 1)
    us: Tensor = torch.frombuffer(bytearray(counts), dtype=torch.int64).view(calls + 1, -1)[1:] * (ns / 1000)
    return max(0.0, float(us[:, 1].median() - us[:, 4].median()))


def whole_calls(calls: Mapping[Any, Any], seconds: float, rounds: int = 40) -> dict[Any, float]:
    """Microseconds of whole calls from Python, by name: all in turn, the least of the rounds' means."""
    best: dict[Any, float] = dict.fromkeys(calls, float("inf"))
    counts = {}
    for name, call in calls.items():
        call()
        start = perf_counter()
        for _ in range(3):
            call()
        counts[name] = max(3, min(400, int(1e-6 * TURN_US / max((perf_counter() - start) / 3, 1e-7))))
    end = perf_counter() + seconds
    for done in range(rounds):
        for name, call in calls.items():
            call()
            start = perf_counter()
            for _ in range(counts[name]):
                call()
            best[name] = min(best[name], (perf_counter() - start) / counts[name] * 1e6)
        if perf_counter() > end and done >= 4:
            break
    return best


def second_level_bytes() -> int:
    """Of a core's second-level cache; 1 MiB where the system does not say."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if level == "2" and kind != "Instruction" and size.endswith("K"):
            return int(size[:-1]) << 10
    return 1 << 20


def machine() -> dict[str, str]:
    """What times belong to: the processor, the instruction set and the version."""
    from rtaccel import __version__
    from rtaccel.backends import backends

    facts = backends()["cpu"].facts()
    return {
        "cpu": str(facts["cpu"]),
        "isa": str(facts["isa"]),
        "version": __version__,
        "abi": str(facts["abi"]),
    }


def cache_file() -> Path:
    """Of this machine's times."""
    import hashlib

    name = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    return stage_times() / f"{name}.json"


def _read(path: Path | None) -> dict[Key, float]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION or content["machine"] != machine():
            return {}
        return {str(key): float(us) for key, us in content["us"].items() if 0 <= float(us) < float("inf")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none yet, or no file of ours: it is written anew
