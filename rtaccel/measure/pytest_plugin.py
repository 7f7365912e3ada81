"""pytest plugin: `@pytest.mark.budget(p99_us=50)` and the fixture `latency`.

    @pytest.mark.budget(p99_us=50, size_bytes=40_000)
    def test_speed(latency, model, sample):
        latency(model, sample, size_bytes=model.weight_bytes)

How a call is measured: by `rtaccel.measure`, or on a CUDA device by `rtaccel.measure.timing.gpu` (`pytest_latency` has the
fixture). Where pytest-benchmark is there, every sample becomes a round of its own: its table, JSON, saving, comparing and
histograms work, and the percentiles and the verdict are in the JSON's `extra_info`.

Where pytest-benchmark is disabled (`--benchmark-disable`), and under pytest-xdist, whose workers take the machine from each
other, the callable runs once, so that the test still shows that it works. Latencies
are then NOT TIMED; size, error and metric are judged, because they do not depend on the machine.

`--budget-report=report.html` writes the report of all measurements, and JUnit files (`--junit-xml`) hold each one's
percentiles and verdict as properties of its test.

How a test is judged, after its own assertions: FAIL fails it with the verdict's text. UNDECIDED and NOT TIMED are shown as
such, in the progress, the counts and the table at the end, and do not fail it unless `--budget-strict` is given. A marker
that is wrong is an error of its test alone. A row of the budgets file that belongs to no test ends the run with 4
(`pytest_rows`).

Loading this module imports no numpy and no torch, and a session that uses neither the marker nor the fixture runs as
without it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import KEYS, TIME_KEYS, Budget
from rtaccel.measure.numbers import figure, shown
from rtaccel.measure.pytest_rows import Hooks, Rows, Unmatched, unmatched

if TYPE_CHECKING:
    from rtaccel.measure.device_budgets import DeviceBudgets
    from rtaccel.measure.pytest_latency import LatencyFixture

USED = pytest.StashKey["LatencyFixture"]()
BUDGETS = pytest.StashKey["DeviceBudgets | None"]()
RESULTS = pytest.StashKey["list[Any]"]()
ROWS = pytest.StashKey[Rows]()
UNMATCHED = pytest.StashKey[Unmatched | None]()

STATES = {"UNDECIDED": ("undecided", "U"), "NOT TIMED": ("not timed", "N")}
"""Verdicts of tests that pass and prove nothing -> how they are counted, and their letter in the progress."""

_COLORS = {"PASS": {"green": True}, "FAIL": {"red": True}, "UNDECIDED": {"yellow": True}, "NOT TIMED": {"yellow": True}}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rtaccel", "latency budgets")
    group.addoption("--budget-strict", action="store_true", help="fail a test whose budget is UNDECIDED or NOT TIMED")
    group.addoption(
        "--budgets",
        metavar="FILE",
        help='TOML file with rows [budget."name"]; a row replaces the marker of the test of that name or node id, and '
        'of the test that calls latency(name=...) with it; [device."name"] has rows for one machine',
    )
    group.addoption("--budget-report", metavar="FILE", help="write an HTML report of what `latency` measured")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"budget({', '.join(key + '=' for key in KEYS)}): limits that the test's `latency` call must meet"
    )
    config.stash[RESULTS], config.stash[ROWS], config.stash[UNMATCHED] = [], Rows(), None
    config.stash[BUDGETS] = _load(config.getoption("--budgets"))
    report = config.getoption("--budget-report")
    if report and config.getoption("numprocesses", None):
        raise pytest.UsageError("--budget-report needs the samples, which stay in the processes of -n; leave one out")
    if report and not Path(report).absolute().parent.is_dir():
        raise pytest.UsageError(f"--budget-report={report}: its folder does not exist")
    has = config.pluginmanager.hasplugin
    plugin = _OnBenchmark() if has("benchmark") or has("pytest_benchmark.plugin") else _Alone()
    config.pluginmanager.register(plugin, "rtaccel-latency")


def _load(path: str | None) -> DeviceBudgets | None:
    if not path:
        return None
    from rtaccel.measure.device_budgets import budgets_here

    try:
        return budgets_here(path)
    except FormatError as error:
        raise pytest.UsageError(str(error)) from error


class _OnBenchmark:
    """The fixture where pytest-benchmark is there; naming `benchmark` lets --benchmark-only and -skip see the test."""

    @pytest.fixture
    def latency(self, request: pytest.FixtureRequest, benchmark: Any) -> LatencyFixture:
        """Measures a callable against the test's budget: latency(fn, *args) -> Latency."""
        return _fixture(request, benchmark)


class _Alone:
    @pytest.fixture
    def latency(self, request: pytest.FixtureRequest) -> LatencyFixture:
        """Measures a callable against the test's budget: latency(fn, *args) -> Latency."""
        return _fixture(request, None)


def _fixture(request: pytest.FixtureRequest, benchmark: Any) -> LatencyFixture:
    from rtaccel.measure.pytest_latency import LatencyFixture

    used = request.node.stash[USED] = LatencyFixture(request.node, benchmark, budget_of(request.node))
    return used


def budget_of(item: pytest.Item) -> Budget | None:
    """Of all markers, each limit from the closest one. Raises FormatError for a wrong one, and where two of one place name the
    same limit."""
    limits: dict[str, Any] = {}
    places: dict[str, Any] = {}
    for node, mark in item.iter_markers_with_node("budget"):  # the closest first
        if mark.args:
            raise FormatError(
                "budget marker", shown(mark.args), "keywords only: " + ", ".join(KEYS), "Name each limit."
            )
        for key, value in mark.kwargs.items():
            if places.setdefault(key, node) is node and key in limits:
                raise FormatError("budget marker", f"{key}={shown(limits[key])} and {key}={shown(value)}", "one of a limit",
                                  "Leave one out.")  # fmt: skip
            limits.setdefault(key, value)
    for low, high in itertools.combinations(TIME_KEYS, 2):
        if low in limits and high in limits and places[low] is not places[high]:
            with contextlib.suppress(TypeError):  # what is no number is refused below
                if limits[low] > limits[high]:
                    limits[low] = limits[high]  # which another place asks for, and says more
    return Budget.from_mapping(limits, "budget marker") if places or item.get_closest_marker("budget") else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuses a marker that could never be judged. A marker `budget` that means something else is left alone."""
    mark = item.get_closest_marker("budget")
    if mark is None:
        return
    if "latency" in getattr(item, "fixturenames", ()):
        try:
            budget_of(item)
        except FormatError as error:
            pytest.fail(f"{item.nodeid}: {error}", pytrace=False)
    elif any(key in KEYS for other in item.iter_markers("budget") for key in other.kwargs):
        pytest.fail(f"{item.nodeid}: has a budget and no fixture `latency` that could prove it; use it", pytrace=False)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.config.stash[ROWS].collected([item], deselected=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[ROWS].collected(session.items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of xdist saw."""
    seen = getattr(node, "workeroutput", {}).get("rtaccel_rows")
    if seen is not None:
        node.config.stash[ROWS].add_plain(seen)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["rtaccel_rows"] = config.stash[ROWS].to_plain()
        return
    budgets, ended = config.stash[BUDGETS], session.exitstatus
    if budgets is None or config.option.collectonly or ended not in _ORDERLY:
        return
    for names in config.hook.pytest_budget_names(config=config):
        config.stash[ROWS].names |= set(names)
    found = config.stash[UNMATCHED] = unmatched(budgets.rows, config.stash[ROWS], config)
    if found is not None and found.excuse is None and ended != pytest.ExitCode.TESTS_FAILED:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


_ORDERLY = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""Ends of a session that was not broken off."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    outcome = yield  # the test's own assertions come first
    used = pyfuncitem.stash.get(USED, None)
    if used is None:
        return outcome
    if used.result is None:
        if used.has_budget():
            pytest.fail("the test has a budget and never called latency()", pytrace=False)
        return outcome
    strict = pyfuncitem.config.getoption("--budget-strict")
    if used.result.verdict == "FAIL" or (strict and used.result.verdict in STATES):
        reasons = "; ".join(used.record["reasons"])
        pytest.fail(f"budget {used.result.verdict}: {reasons}\n{used.result}", pytrace=False)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = item.stash.get(USED, None)
    if call.when == "call" and used is not None and used.result is not None:
        report.latency_budget = used.record  # type: ignore[attr-defined]  # plain values: xdist carries them
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    record = getattr(report, "latency_budget", None)
    if record and record["verdict"] in STATES and report.passed and not hasattr(report, "wasxfail"):
        verdict = record["verdict"]
        return (*STATES[verdict], (verdict, _COLORS[verdict]))
    return None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for group in terminalreporter.stats.values() for report in group]
    records = [report.latency_budget for report in reports if hasattr(report, "latency_budget")]
    if records:
        _table(terminalreporter, config, records)
    lost = config.stash[UNMATCHED]
    if lost is not None:
        terminalreporter.write_line(str(lost), **({"red": True} if lost.excuse is None else {"yellow": True}))


def _table(terminalreporter: Any, config: pytest.Config, records: Sequence[dict[str, Any]]) -> None:
    terminalreporter.section("latency budgets")
    width = max(len(record["name"]) for record in records)
    terminalreporter.write_line(
        f"{'':{width}}  {'calls':>9}  {'p50 us':>10}  {'p99 us':>10}  {'p99.9 us':>10}  {'max us':>10}  verdict"
    )
    budgets = config.stash[BUDGETS]
    if budgets is not None and budgets.said:
        terminalreporter.write_line(budgets.said)
    for record in records:
        verdict = record["verdict"] or ("not timed" if record["mode"] == "not timed" else "no budget")
        figures = (record[key] for key in ("p50_us", "p99_us", "p999_us", "max_us"))
        cells = "  ".join(f"{'-':>10}" if us is None else f"{figure(us):>10}" for us in figures)
        terminalreporter.write(f"{record['name']:{width}}  {record['n']:>9,}  {cells}  ")
        terminalreporter.write_line(verdict, **_COLORS.get(verdict, {}))
        for reason in record["reasons"]:
            terminalreporter.write_line(f"{'':{width}}  {reason}")
    untimed = [record for record in records if record["verdict"] == "NOT TIMED"]
    if untimed:
        plural = "s were" if len(untimed) > 1 else " was"
        terminalreporter.write_line(
            f"{len(untimed):,} budget{plural} not timed: {untimed[0]['untimed']}. --budget-strict makes that a failure.",
            yellow=True,
        )
    _write_report(terminalreporter, config)


def _write_report(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--budget-report")
    timed = [result for result in config.stash[RESULTS] if result.mode != "not timed"]
    if not path:
        return
    if not timed:
        terminalreporter.write_line(f"no report {path}: nothing was timed")
        return
    from rtaccel.measure.report import write_report

    command = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])
    written = write_report(path, timed, title=f"Latency budgets of {config.rootpath.name}", command=command)
    terminalreporter.write_line(f"report: {os.path.relpath(written)}")
