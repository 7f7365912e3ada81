"""What nobody should pass to budgets, measurements and reports: (name, call, exact type of the error, words that matter)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rtaccel as rt
from rtaccel.measure.budget import KEYS, load_budgets
from rtaccel.measure.cold_start import cold_start
from rtaccel.measure.device_budgets import budgets_here
from rtaccel.measure.energy import find_counter, measure_energy
from rtaccel.measure.histogram import Histogram
from rtaccel.measure.interleave import Interleaved, compare, interleave
from rtaccel.measure.loadgen import run_loadgen
from rtaccel.measure.machine.memory import peak_memory
from rtaccel.measure.report import render_report, write_report
from rtaccel.measure.report_markdown import render_markdown
from rtaccel.measure.report_png import write_png
from rtaccel.measure.result import Latency
from rtaccel.measure.timing.gpu import prepare
from rtaccel.measure.verdict import judge

Case = tuple[str, Callable[[], Any], type[rt.RtaccelError], str]

CASES: list[Case] = []

F = rt.FormatError

HUGE, ENDLESS = 10**400, 10**5000
"""More than a float holds; more than Python prints."""

NO_NUMBER: dict[str, Any] = {
    "text": "50", "bytes": b"5", "True": True, "a list": [50], "a dict": {}, "complex": 1j, "a function": len, "huge": HUGE,
    "endless": ENDLESS, "an array": np.ones(3),
}  # fmt: skip
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
BELOW = {"-1": -1, "0": 0, "-0.5": -0.5}


def add(name: str, call: Callable[[], Any], words: str, error: type[rt.RtaccelError] = F) -> None:
    CASES.append((name, call, error, words))


# -- budgets -----------------------------------------------------------------------------------------------------------

for key in KEYS:
    bad = NO_NUMBER | NOT_FINITE
    if key not in ("max_error", "min_metric"):
        bad = bad | BELOW
    elif key == "max_error":
        bad = bad | {"-1": -1}
    for name, value in bad.items():
        add(
            f"Budget {key}={name}", lambda key=key, value=value: rt.Budget(**{key: value}), rf"Budget.*{key}=.*expected"
        )
add("Budget without a limit", rt.Budget, "no limit at all.*p99_us")
add("Budget of None alone", lambda: rt.Budget(p99_us=None), "no limit at all")
add("Budget size_bytes=1.5", lambda: rt.Budget(size_bytes=1.5), "whole number of bytes")  # type: ignore[arg-type]
add("Budget p50 above p99", lambda: rt.Budget(p50_us=9, p99_us=8), "p50_us=9 above p99_us=8")
add("Budget p99 above p99.9", lambda: rt.Budget(p99_us=9.5, p999_us=8), "p99_us=9.5 above p999_us=8")
add("Budget scaled beyond floats", lambda: rt.Budget(p99_us=1e300).scaled(1e300), "p99_us=inf")
for name, row in {
    "an unknown key": {"p95_us": 3}, "a key that is no text": {3: 3}, "a list": [1], "None": None, "a number": 3,
    "text": "p99_us",
}.items():  # fmt: skip
    add(f"a row with {name}", lambda row=row: rt.Budget.from_mapping(row, "here"), "here.*(unknown key|limits by name)")


def in_file(text: str | bytes, read: Callable[[str], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "budgets.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(str(path))


FILES: dict[str, tuple[str | bytes, str]] = {
    "no TOML": ("[budget", "TOML"), "no UTF-8": (b"\xff\xfe", "TOML"), "nothing": ("", "without such rows"),
    "a budget that is a number": ("budget = 3", "without such rows"), "a row that is a number": ("[budget]\nx = 3", "such rows"),
    "a list of rows": ("[[budget]]\np99_us = 3", "without such rows"),
    "an unknown key": ('[budget."x"]\np95_us = 3', 'row "x".*p95_us'), "a text": ('[budget."x"]\np99_us = "3"', "p99_us='3'"),
    "a negative limit": ('[budget."x"]\np99_us = -3', "p99_us=-3"), "nan": ('[budget."x"]\np99_us = nan', "p99_us=nan"),
    "an empty row": ('[budget."x"]', "no limit at all"), "a huge number": (f'[budget."x"]\np99_us = 1{"0" * 400}', "p99_us"),
    "limits that cross": ('[budget."x"]\np50_us = 3\np99_us = 2', "p50_us=3 above"),
    "a date": ('[budget."x"]\np99_us = 2026-11-26', "p99_us"),
}  # fmt: skip
for name, (text, words) in FILES.items():
    add(f"load_budgets of {name}", lambda text=text: in_file(text, load_budgets), words)
DEVICES = {
    "devices that are a number": ("device = 3", "device"), "a device that is a number": ('[device]\n"x" = 3', "device"),
    "an unknown key of a device": ('[device."x"]\nspeed = 3', "speed"),
    "a yardstick of 0": ('[device."x"]\nyardstick_us = 0', "yardstick_us=0"),
    "a yardstick that is text": ('[device."x"]\nyardstick_us = "3"', "yardstick_us='3'"),
    "a yardstick of nan": ('[device."x"]\nyardstick_us = nan', "yardstick_us=nan"),
    "a huge yardstick": (f'[device."x"]\nyardstick_us = 1{"0" * 400}', "yardstick_us"),
    "another machine alone": ('[device."No Such Chip"]\n[device."No Such Chip".budget."x"]\np99_us = 3', "No Such Chip"),
}  # fmt: skip
for name, (text, words) in DEVICES.items():
    add(f"budgets_here of {name}", lambda text=text: in_file(text, budgets_here), words)
for name, where in {
    "that is not there": "no/such/file.toml",
    "with a zero byte": "a\0b",
    "of None": None,
    "of 3": 3,
}.items():
    add(f"load_budgets of a path {name}", lambda where=where: load_budgets(where), "budgets file")  # type: ignore[arg-type]

# -- measuring ---------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, Any]] = {
    "samples": NO_NUMBER | NOT_FINITE | BELOW | {"1.5": 1.5, "1e30": 10**30, "a float": 700.0},
    "seconds": NO_NUMBER | NOT_FINITE | BELOW | {"1e30": 1e30},
    "warmup": NO_NUMBER | NOT_FINITE | {"-1": -1, "1e30": 1e30, "None": None},
    "size_bytes": NO_NUMBER | NOT_FINITE | {"-1": -1},
    "error": {k: v for k, v in NO_NUMBER.items() if k != "a function"} | {"-1": -1},
    "metric": {k: v for k, v in NO_NUMBER.items() if k != "a function"},
    "setup": {"a list": [1], "a number": 3, "text": "x"},
    "period_us": NO_NUMBER | NOT_FINITE | BELOW | {"1e30": 1e30},
    "budget": {"a number": 50, "text": "p99_us=50", "a dict": {"p99_us": 50}, "a list": [50]},
}
for argument, values in ARGUMENTS.items():
    for name, value in values.items():
        given = {"samples": 2} | {argument: value}
        add(
            f"measure {argument}={name}",
            lambda g=given: rt.measure(len, [[]], **g),
            rf"measure: got {argument}.*expected",
        )
for name, fn in {"a number": 3, "None": None, "text": "len", "a result": [1]}.items():
    add(f"measure fn={name}", lambda fn=fn: rt.measure(fn), "measure: got fn of type.*callable")
    add(f"peak_memory fn={name}", lambda fn=fn: peak_memory(fn), "memory: got fn of type")
    add(f"measure_energy fn={name}", lambda fn=fn: measure_energy(fn), "energy: got fn of type")
    add(f"run_loadgen fn={name}", lambda fn=fn: run_loadgen(fn, [[1]]), "loadgen: got fn of type")
    add(f"compare with {name}", lambda fn=fn: compare(fn, len), "compare: got.*two callables")
add("measure witness with a period", lambda: rt.measure(len, [[]], period_us=9, witness=True), "period_us with witness")
add(
    "measure cold_cache with a period",
    lambda: rt.measure(len, [[]], period_us=9, cold_cache=True),
    "period_us with cold_cache",
)
add("measure inside of a function", lambda: rt.measure(len, [[]], inside=True), "inside=True for builtin_function")
add("measure an error of nothing", lambda: rt.measure(lambda: None, error=lambda y: 0.0), "returns None.*error=")
for name, value in {"text": "x", "None": None, "huge": HUGE, "two": [1, 2]}.items():
    for argument in ("error", "metric"):
        how = {argument: lambda y, value=value: value}
        add(
            f"measure {argument} that gives {name}",
            lambda how=how: rt.measure(abs, -1, **how),
            f"{argument}= that returned",
        )
add("measure an error below 0", lambda: rt.measure(abs, -1, error=lambda y: -1.0), "0 or above")
add("raise_for_budget without one", lambda: rt.measure(abs, -1, samples=2).raise_for_budget(), "no budget")
add(
    "raise_for_budget over it", lambda: rt.measure(abs, -1, rt.Budget(max_error=0.1), samples=2, error=0.2).raise_for_budget(),
    "FAIL max_error", rt.BudgetExceeded,
)  # fmt: skip
add(
    "raise_for_budget of too few, strict",
    lambda: rt.measure(abs, -1, rt.Budget(p99_us=1e9), samples=2).raise_for_budget(strict=True), "UNDECIDED p99_us",
    rt.BudgetExceeded,
)  # fmt: skip
for name, samples in {"nan": [1.0, math.nan], "inf": [math.inf], "-1": [-1.0]}.items():
    add(
        f"judge samples of {name}",
        lambda samples=samples: judge(rt.Budget(p99_us=1), np.array(samples)),
        "verdict.*times",
    )

# -- everything beside -------------------------------------------------------------------------------------------------

for name, value in (NO_NUMBER | NOT_FINITE | BELOW).items():
    add(f"compare seconds={name}", lambda v=value: compare(len, len, seconds=v), "compare: got seconds=")
    add(f"interleave rounds={name}", lambda v=value: interleave({"a": list}, v, 1), "interleave: got rounds=")
    add(f"interleave calls={name}", lambda v=value: interleave({"a": list}, 1, v), "calls_per_round=")
    add(f"cold_start processes={name}", lambda v=value: cold_start("", "1", processes=v), "cold_start: got processes=")
    add(f"cold_start seconds={name}", lambda v=value: cold_start("", "1", seconds=v), "seconds=")
    add(f"measure_energy seconds={name}", lambda v=value: measure_energy(len, [[]], v), "energy: got seconds=")
    add(f"run_loadgen seconds={name}", lambda v=value: run_loadgen(len, [[[1]]], seconds=v), "loadgen: got seconds=")
    add(f"peak_memory calls={name}", lambda v=value: peak_memory(len, [[]], v), "memory: got calls=")
for name, value in (NO_NUMBER | NOT_FINITE | {"-1": -1}).items():
    add(f"compare margin={name}", lambda v=value: compare(len, len, seconds=0.1, margin=v), "compare: got margin=")
for name, value in (NO_NUMBER | NOT_FINITE | {"-1": -1}).items():
    add(f"Interleaved.compare margin={name}", lambda v=value: timed().compare("a", "a", margin=v), "got margin=")
    if name not in ("huge", "endless"):
        add(f"Interleaved.ratio seed={name}", lambda v=value: timed().ratio("a", "a", seed=v), "got seed=")
    add(f"Interleaved.ratio resamples={name}", lambda v=value: timed().ratio("a", "a", resamples=v), "got resamples=")
    add(
        f"Interleaved.ratio confidence={name}", lambda v=value: timed().ratio("a", "a", confidence=v), "got confidence="
    )
    if not isinstance(value, str):
        add(f"write_report title={name}", lambda v=value: write_report("x.html", [latency()], title=v), "got title=")
for name, value in {"0": 0, "1": 1, "2": 2}.items():
    add(
        f"Interleaved.ratio confidence={name}", lambda v=value: timed().ratio("a", "a", confidence=v), "got confidence="
    )
for name, value in {"a list": [1], "text": "1", "-1": -1}.items():
    add(f"interleave seed={name}", lambda v=value: interleave({"a": list}, 2, 2, seed=v), "got seed=")
for name, value in {"nothing": {}, "a list": [len], "None": None, "a number in it": {"a": 3}}.items():
    add(f"interleave of {name}", lambda v=value: interleave(v), "interleave: got.*callable")
add("a ratio of an unknown name", lambda: interleave({"a": list}, 30, 5).ratio("a", "b"), "'b'.*one of a")
add("cold_start of no Python", lambda: cold_start("import (", "1"), "setup")
add("cold_start of a number", lambda: cold_start(3, "1"), "setup")  # type: ignore[arg-type]
add("cold_start of code that fails", lambda: cold_start("", "1 / 0", processes=1), "ZeroDivisionError")
add("cold_start budget=50", lambda: cold_start("", "1", 50), "cold_start: got budget")  # type: ignore[arg-type]
add("an energy counter of a TPU", lambda: find_counter("tpu"), "device='tpu'")
add("measure_energy below 2 s", lambda: measure_energy(len, [[]], 1.9), "at least 2 s")
for mode in ("fast", "", None, 3):
    add(f"a GPU mode {mode!r}", lambda m=mode: prepare(len, ([],), m), "measure: got mode=.*stream")  # type: ignore[arg-type]
for name, given in {
    "no samples": {"samples": []}, "samples that are a number": {"samples": 3}, "another scenario": {"scenario": "Offline"},
    "a server without a budget": {"scenario": "Server", "qps": 9}, "qps for one stream": {"qps": 9},
    "qps of text": {"scenario": "Server", "budget": rt.Budget(p99_us=9), "qps": "9"}, "a budget of 50": {"budget": 50},
    "qps of nan": {"scenario": "Server", "budget": rt.Budget(p99_us=9), "qps": math.nan}, "expected_us of 0": {"expected_us": 0},
}.items():  # fmt: skip
    add(f"run_loadgen with {name}", lambda g=given: run_loadgen(len, **({"samples": [[1]]} | g)), "loadgen: got")  # type: ignore[arg-type]


for name, value in {"None": None, "a list": [1.0], "a number": 3}.items():
    add(f"Histogram.of {name}", lambda v=value: Histogram.of(v), "histogram: got")


def timed() -> Interleaved:
    return Interleaved({"a": np.ones((5, 3))}, 0.0)


def latency(name: str = "x") -> Latency:
    return Latency.from_samples([1000, 2000], name=name, timer_ns=0.0)


for name, results in {
    "nothing": [],
    "a text": "x",
    "a number in it": [3],
    "None": None,
    "one Latency": latency(),
}.items():
    add(f"render_report of {name}", lambda r=results: render_report(r, title="x"), "report: got")
    add(f"render_markdown of {name}", lambda r=results: render_markdown(r, title="x"), "report: got")
    add(f"write_png of {name}", lambda r=results: write_png("x.png", r, title="x"), "report: got")
add("a report in another theme", lambda: render_report([latency()], title="x", theme="pink"), "theme='pink'")  # type: ignore[arg-type]
for name, samples in {
    "none": [],
    "text": ["a"],
    "nan": [math.nan],
    "a table": [[1, 2], [3, 4]],
    "negative ones": [-5],
}.items():
    add(
        f"Latency.from_samples of {name}",
        lambda s=samples: Latency.from_samples(s, name="x", timer_ns=0.0),
        "from_samples: got",
    )
