"""pytest plugin: `@pytest.mark.budget(p99_us=50)` and the fixture `latency`.

    @pytest.mark.budget(p99_us=50, size_bytes=40_000)
    def test_speed(latency, model, sample):
        latency(model, sample, size_bytes=model.weight_bytes)

How a call is measured:

- with pytest-benchmark, through `benchmark.pedantic(iterations=1, rounds=...)`: its table, JSON, saving, comparing and
  histograms work, and the percentiles and the verdict are in the JSON's `extra_info`;
- with pytest-benchmark disabled (`--benchmark-disable`, xdist), the callable runs once, so that the test still shows
  that it works. Time is then not judged; size and error are, because they do not depend on the machine;
- without pytest-benchmark, by `rtaccel.measure`.

How a test is judged, after its own assertions: FAIL fails it with the verdict's text. UNDECIDED is shown as such, in
the progress, the counts and the table at the end, and does not fail it unless `--budget-strict` is given.

Loading this module imports no numpy and no torch, and a session that uses neither the marker nor the fixture runs as
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import KEYS, Budget, load_budgets

_ROUNDS_MAX = 100_000
"""pytest-benchmark keeps each round as a Python float and sorts them for its own table."""

_USED = pytest.StashKey["LatencyFixture"]()
_ROWS = pytest.StashKey["dict[str, Budget]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rtaccel", "latency budgets")
    group.addoption("--budget-strict", action="store_true", help="fail a test whose budget is UNDECIDED")
    group.addoption(
        "--budgets",
        metavar="FILE",
        help='TOML file with rows [budget."name"]; a row replaces the marker of the test of that name or node id, and '
        "of the test that calls latency(name=...) with it",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"budget({', '.join(key + '=' for key in KEYS)}): limits that the test's `latency` call must meet"
    )
    path = config.getoption("--budgets")
    try:
        config.stash[_ROWS] = load_budgets(path) if path else {}
    except FormatError as error:
        raise pytest.UsageError(str(error)) from error
    has = config.pluginmanager.hasplugin
    plugin = _OnBenchmark() if has("benchmark") or has("pytest_benchmark.plugin") else _Alone()
    config.pluginmanager.register(plugin, "rtaccel-latency")


class LatencyFixture:
    """`latency(fn, *args, name=None, size_bytes=None, error=None)` -> Latency. Once per test."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: Any) -> None:
        self._node = request.node
        self._benchmark = benchmark  # None where pytest-benchmark is not there
        self.marked = _budget_of(self._node)
        self.result: Any = None
        request.node.stash[_USED] = self

    def __call__(
        self,
        fn: Callable[..., object],
        *args: Any,
        name: str | None = None,
        size_bytes: int | None = None,
        error: float | None = None,
    ) -> Any:
        """Measures `fn(*args)`; size_bytes, error: as in `rtaccel.measure`. The verdict falls when the test ends."""
        from rtaccel.measure.latency import measure, weight_bytes

        if self.result is not None:
            raise pytest.UsageError("latency() was called twice in one test; parametrise the test instead")
        rows = self._node.config.stash[_ROWS]
        budget = next((rows[n] for n in (name, self._node.nodeid, self._node.name) if n in rows), self.marked)
        given: dict[str, Any] = {"name": name or self._node.name, "size_bytes": size_bytes, "error": error}
        if self._benchmark is None:
            self.result = measure(fn, args, budget, **given)
        else:
            if budget is not None and budget.size_bytes is not None and size_bytes is None:
                given["size_bytes"] = weight_bytes(fn)
            self.result = (self._pedantic if self._benchmark.enabled else self._once)(fn, args, budget, given)
        return self.result

    def _pedantic(self, fn: Callable[..., object], args: tuple[Any, ...], budget: Budget | None, given: Any) -> Any:
        from rtaccel.measure import latency, sampler

        limits = latency.plan_limits(budget)
        timer_ns = sampler.timer_overhead_ns(args)
        with sampler.no_grad(), sampler.quiet():
            call_ns = max(sampler.warm_up(fn, args, 0.1), 1.0)
            wanted = max(limits.min_samples, min(int(limits.min_ns / call_ns), _ROUNDS_MAX))
            rounds = max(1, min(wanted, int(limits.max_ns / call_ns)))
            self._benchmark.pedantic(fn, args=args, rounds=rounds, iterations=1)
        seconds = self._benchmark.stats.stats.data
        result = latency.Latency.from_samples(
            [round(s * 1e9) for s in seconds], timer_ns=timer_ns, budget=budget, **given
        )
        self._benchmark.extra_info.update(_record(result))
        return result

    def _once(self, fn: Callable[..., object], args: tuple[Any, ...], budget: Budget | None, given: Any) -> Any:
        from rtaccel.measure import latency, sampler

        with sampler.no_grad():
            before = sampler.CLOCK()
            self._benchmark.pedantic(fn, args=args)
            taken = sampler.CLOCK() - before
        timeless = None if budget is None else budget.without_time()
        return latency.Latency.from_samples([taken], timer_ns=0.0, budget=timeless, **given)


class _OnBenchmark:
    """The fixture where pytest-benchmark is there; naming `benchmark` lets --benchmark-only and -skip see the test."""

    @pytest.fixture
    def latency(self, request: pytest.FixtureRequest, benchmark: Any) -> LatencyFixture:
        """Measures a callable against the test's budget: latency(fn, *args) -> Latency."""
        return LatencyFixture(request, benchmark)


class _Alone:
    @pytest.fixture
    def latency(self, request: pytest.FixtureRequest) -> LatencyFixture:
        """Measures a callable against the test's budget: latency(fn, *args) -> Latency."""
        return LatencyFixture(request, None)


def _budget_of(item: pytest.Item) -> Budget | None:
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
            _budget_of(item)
        elif any(key in KEYS for key in mark.kwargs):
            raise pytest.UsageError(f"{item.nodeid}: has a budget and no fixture `latency` that could prove it; use it")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    outcome = yield  # the test's own assertions come first
    used = pyfuncitem.stash.get(_USED, None)
    if used is None:
        return outcome
    if used.result is None:
        if used.marked is not None:
            pytest.fail("the test has a budget and never called latency()", pytrace=False)
        return outcome
    strict = pyfuncitem.config.getoption("--budget-strict")
    if used.result.verdict == "FAIL" or (strict and used.result.verdict == "UNDECIDED"):
        reasons = "; ".join(_record(used.result)["reasons"])
        pytest.fail(f"budget {used.result.verdict}: {reasons}\n{used.result}", pytrace=False)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = item.stash.get(_USED, None)
    if call.when == "call" and used is not None and used.result is not None:
        report.latency_budget = _record(used.result)  # type: ignore[attr-defined]  # plain values: xdist carries them
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    record = getattr(report, "latency_budget", None)
    if record and record["verdict"] == "UNDECIDED" and report.passed and not hasattr(report, "wasxfail"):
        return "undecided", "U", ("UNDECIDED", {"yellow": True})
    return None


def _record(result: Any) -> dict[str, Any]:
    """What extra_info and the summary hold: plain values, flat where a figure is compared."""
    unproven = [f"{line.key}: {line.reason}" for line in result.lines if line.verdict != "PASS"]
    keys = ("name", "n", "p50_us", "p99_us", "p999_us", "max_us", "timer_ns", "size_bytes", "error", "verdict")
    record = {key: getattr(result, key) for key in keys}
    return record | {"budget": result.budget and result.budget.as_dict(), "reasons": unproven}


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
    for record in records:
        verdict = record["verdict"] or ("not timed" if record["n"] == 1 else "no budget")
        cells = "  ".join(f"{record[key]:>10.4g}" for key in ("p50_us", "p99_us", "p999_us", "max_us"))
        terminalreporter.write(f"{record['name']:{width}}  {record['n']:>9,}  {cells}  ")
        terminalreporter.write_line(verdict, **colours.get(verdict, {}))
        for reason in record["reasons"]:
            terminalreporter.write_line(f"{'':{width}}  {reason}")
