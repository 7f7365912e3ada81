"""pytest plugin: `@pytest.mark.budget(p99_us=50)` and the fixture `latency`.

    @pytest.mark.budget(p99_us=50, size_bytes=40_000)
    def test_speed(latency, model, sample):
        latency(model, sample, size_bytes=model.weight_bytes)

How a call is measured: by `rtaccel.measure`, or on a CUDA device by `rtaccel.measure.gpu` (`pytest_latency` has the
fixture). Where pytest-benchmark is there, every sample becomes a round of its own: its table, JSON, saving, comparing and
histograms work, and the percentiles and the verdict are in the JSON's `extra_info`. With pytest-benchmark disabled
(`--benchmark-disable`, xdist), the callable runs once, so that the test still shows that it works. Time is then not judged;
size, error and metric are, because they do not depend on the machine.

`--budget-report=report.html` writes the report of all measurements, and JUnit files (`--junit-xml`) hold each one's
percentiles and verdict as properties of its test.

How a test is judged, after its own assertions: FAIL fails it with the verdict's text. UNDECIDED is shown as such, in
the progress, the counts and the table at the end, and does not fail it unless `--budget-strict` is given.

Loading this module imports no numpy and no torch, and a session that uses neither the marker nor the fixture runs as
without it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import KEYS, Budget

if TYPE_CHECKING:
    from rtaccel.measure.device_budgets import DeviceBudgets
    from rtaccel.measure.pytest_latency import LatencyFixture

USED = pytest.StashKey["LatencyFixture"]()
BUDGETS = pytest.StashKey["DeviceBudgets | None"]()
RESULTS = pytest.StashKey["list[Any]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rtaccel", "latency budgets")
    group.addoption("--budget-strict", action="store_true", help="fail a test whose budget is UNDECIDED")
    group.addoption(
        "--budgets",
        metavar="FILE",
        help='TOML file with rows [budget."name"]; a row replaces the marker of the test of that name or node id, and '
        'of the test that calls latency(name=...) with it; [device."name"] has rows for one machine',
    )
    group.addoption("--budget-report", metavar="FILE", help="write an HTML report of what `latency` measured")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"budget({', '.join(key + '=' for key in KEYS)}): limits that the test's `latency` call must meet"
    )
    config.stash[RESULTS] = []
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
    mark = item.get_closest_marker("budget")
    if mark is None:
        return None
    try:
        if mark.args:
            raise FormatError("budget marker", repr(mark.args), "keywords only: " + ", ".join(KEYS), "Name each limit.")
        return Budget.from_mapping(mark.kwargs, "budget marker")
    except FormatError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses a marker that could never be judged. A marker `budget` that means something else is left alone."""
    for item in items:
        mark = item.get_closest_marker("budget")
        if mark is None:
            continue
        uses_fixture = "latency" in getattr(item, "fixturenames", ())
        if uses_fixture:
            budget_of(item)
        elif any(key in KEYS for key in mark.kwargs):
            raise pytest.UsageError(f"{item.nodeid}: has a budget and no fixture `latency` that could prove it; use it")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    outcome = yield  # the test's own assertions come first
    used = pyfuncitem.stash.get(USED, None)
    if used is None:
        return outcome
    if used.result is None:
        if used.marked is not None:
            pytest.fail("the test has a budget and never called latency()", pytrace=False)
        return outcome
    strict = pyfuncitem.config.getoption("--budget-strict")
    if used.result.verdict == "FAIL" or (strict and used.result.verdict == "UNDECIDED"):
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
    if record and record["verdict"] == "UNDECIDED" and report.passed and not hasattr(report, "wasxfail"):
        return "undecided", "U", ("UNDECIDED", {"yellow": True})
    return None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for group in terminalreporter.stats.values() for report in group]
    records = [report.latency_budget for report in reports if hasattr(report, "latency_budget")]
    if not records:
        return
    terminalreporter.section("latency budgets")
    width = max(len(record["name"]) for record in records)
    terminalreporter.write_line(
        f"{'':{width}}  {'calls':>9}  {'p50 us':>10}  {'p99 us':>10}  {'p99.9 us':>10}  {'max us':>10}  verdict"
    )
    colours = {"PASS": {"green": True}, "FAIL": {"red": True}, "UNDECIDED": {"yellow": True}}
    budgets = config.stash[BUDGETS]
    if budgets is not None and budgets.said:
        terminalreporter.write_line(budgets.said)
    for record in records:
        verdict = record["verdict"] or ("not timed" if record["n"] == 1 else "no budget")
        cells = "  ".join(f"{record[key]:>10.4g}" for key in ("p50_us", "p99_us", "p999_us", "max_us"))
        terminalreporter.write(f"{record['name']:{width}}  {record['n']:>9,}  {cells}  ")
        terminalreporter.write_line(verdict, **colours.get(verdict, {}))
        for reason in record["reasons"]:
            terminalreporter.write_line(f"{'':{width}}  {reason}")
    _write_report(terminalreporter, config)


def _write_report(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--budget-report")
    timed = [result for result in config.stash[RESULTS] if result.n > 1]
    if not path:
        return
    if not timed:
        terminalreporter.write_line(f"no report {path}: nothing was timed")
        return
    from rtaccel.measure.report import write_report

    command = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])
    written = write_report(path, timed, title=f"Latency budgets of {config.rootpath.name}", command=command)
    terminalreporter.write_line(f"report: {os.path.relpath(written)}")
