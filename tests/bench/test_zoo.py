"""The zoo: entries, surveys of networks of torch alone, what fails, figures and the page from canned results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.peers.results import Row
from bench.peers.rounds import Timing
from bench.zoo import __main__ as command_line
from bench.zoo import alone, case, figures, page, results, run, summary
from bench.zoo.entry import DOMAINS, Entry, Method, Output, entries, select
from bench.zoo.loaders import BY_NAME, LOADERS, PEERS
from bench.zoo.packages import BY_ITSELF
from bench.zoo.survey import STATUSES, Fallback, Survey, leaves, same, survey, touched

KNOWN = entries()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


def entry_of(module: nn.Module, *inputs: Tensor, package: str = "torch", name: str = "net") -> Entry:
    return Entry(name, package, lambda: (module, inputs), domain="control")


class Parts(nn.Module):
    """One native layer, and one operator that no package will ever hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return y, torch.special.airy_ai(y)


class Unruly(nn.Module):
    """Raises, as a package that does not fit this version of torch does."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such operator in this version")


class Branching(nn.Module):
    """Takes another path for other values, which no capture follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum().item() > 0 else x


def test_entries_are_well_formed() -> None:
    assert len(KNOWN) >= 60
    assert {entry.domain for entry in KNOWN.values()} == set(DOMAINS)
    for name, entry in KNOWN.items():
        assert name == entry.name and name.replace("_", "").isalnum() and name == name.lower()
        assert entry.package and callable(entry.make)


def test_every_package_is_in_the_extra() -> None:
    import re
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((results.ROOT / "pyproject.toml").read_text())["project"]
    held = {re.split(r"[<>=!; \[]", line)[0].lower() for line in project["optional-dependencies"]["zoo"]}
    named = {package.lower() for entry in KNOWN.values() for package in (entry.package, *entry.also)}
    assert named - {"torch"} - BY_ITSELF == held


def test_select_takes_names_packages_and_domains() -> None:
    names = [entry.name for entry in select(["finance", "nn_transformer_*", "pykan"], KNOWN.values())]
    assert "rtdl_mlp" in names and "nn_transformer_encoder" in names and "kan" in names
    assert "mobilenet_v2" not in names
    assert len(select([], KNOWN.values())) == len(KNOWN)
    with pytest.raises(ValueError, match="'nothing'"):
        select(["nothing"], KNOWN.values())


def test_weights_are_drawn_again_the_same_and_none_stay_zero() -> None:
    entry = KNOWN["nn_transformer_encoder"]
    (first, given), (second, again) = entry.build(), entry.build()
    assert torch.equal(given[0], again[0]) and not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert all(p.any() and not p.requires_grad for p in first.parameters())


def test_wrappers_pick_an_output_and_a_method() -> None:
    x = torch.randn(1, 8)
    parts = Parts()
    assert torch.equal(Output(parts, 1)(x), parts(x)[1])
    assert torch.equal(Method(parts, "forward")(x)[0], parts(x)[0])


@pytest.mark.parametrize("name", ["nn_transformer_encoder", "nn_transformer_decoder"])
def test_survey_of_networks_of_torch_alone(name: str) -> None:
    found = survey(KNOWN[name])
    assert found.status in ("native", "partial") and found.stages >= found.native > 0
    assert found.error is not None and found.error < 1e-5
    assert (found.error_other is not None and found.error_other < 1e-5) or found.other
    assert found.inputs[0].startswith("float32[1, ") and found.parameters > 50_000 and not found.touched
    assert Survey.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_survey_names_what_falls_back() -> None:
    found = survey(entry_of(Parts(), torch.randn(1, 8)))
    assert found.status == "partial" and (found.native, found.stages) == (1, 2)
    (fallback,) = found.fallbacks
    assert fallback.operator == "aten.special_airy_ai.default" and fallback.count == 1 and fallback.reasons
    assert fallback.arguments == ["(float32[B, 8]) -> float32[B, 8]"]


def test_a_network_that_compiling_changed_is_told() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(1, 4)
    before = leaves(layer(x))
    assert touched(layer, (x,), before) == ""
    with torch.no_grad():
        layer.weight.add_(1)
    assert "others than before" in touched(layer, (x,), before) and touched(layer, (x,), None) == ""
    assert "no longer runs" in touched(Unruly(), (x,), before)
    assert same([torch.tensor([1.0, float("nan")])], [torch.tensor([1.0, float("nan")])])
    assert not same([x], [x + 1]) and not same([x], [])


def test_what_goes_wrong_is_a_status_with_a_reason() -> None:
    broken = survey(entry_of(Unruly(), torch.randn(1, 4)))
    assert broken.status == "broken" and "no such operator in this version" in broken.reason
    branching = survey(entry_of(Branching(), torch.rand(1, 4)))
    assert branching.status == "not captured" and "Branching" in branching.reason
    absent = survey(entry_of(nn.Linear(4, 4), torch.rand(1, 4), package="no-such-distribution"))
    assert absent.status == "left out" and "no-such-distribution" in absent.reason
    refused = survey(entry_of(nn.Linear(4, 4), torch.rand(1, 4).bool()))
    assert refused.status == "broken"


def test_a_crash_and_a_hang_cost_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crash.py").write_text("import os\nos.abort()\n")
    (tmp_path / "hang.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    entry = replace(KNOWN["nn_transformer_encoder"])
    crashed = alone.survey_alone(entry, 60, "crash")
    assert crashed.status == "crashed" and "status -6" in crashed.reason
    start = time.monotonic()
    late = alone.survey_alone(entry, 1, "hang")
    assert late.status == "timed out" and time.monotonic() - start < 60


def test_survey_is_saved_after_each_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alone, "survey_alone", lambda entry, limit: CANNED[0])
    saved: list[int] = []
    record: results.Record = {}
    alone.survey_all([KNOWN["bert"], KNOWN["gpt2"]], record, lambda found: saved.append(len(found["networks"])))
    assert saved == [1, 2] and "2/2 gpt2: native, 4 of 4" in capsys.readouterr().out


SOFT, HARD = "aten.softplus.default", "aten.hardtanh.default"
CANNED = [
    Survey("policy", "control", "torch", "native", native=4, stages=4, compile_seconds=1.0, error=2e-7),
    Survey("mobile", "vision", "torch", "partial", native=3, stages=5, compile_seconds=2.0, error=3e-7,
           fallbacks=[Fallback(SOFT, 2, ["none"], ["(float32[B, 8]) -> float32[B, 8]"])]),
    Survey("tcn", "vision", "torch", "partial", native=3, stages=5, compile_seconds=2.0, error=3e-7, wrapped="picks y",
           fallbacks=[Fallback(HARD, 1, ["none"], ["a|b"]), Fallback(SOFT, 1, ["other"], ["c"])]),
    Survey("branchy", "vision", "torch", "not captured", reason="compile: got Branchy, which branches"),
    Survey("gone", "audio", "none", "left out", reason="not installed: none"),
]  # fmt: skip


def row(peer: str, us: float, error: float = 1e-7) -> Row:
    known = BY_NAME[peer]
    return Row(peer, known.title, known.ours, error, us, us, us, us, 10)


TIMES = {
    "policy": [row("torch_eager", 40), row("ort_fp32", 8), row("ort_static_int8", 6, 0.02), row("rt_float32", 2),
               row("rt_w8a8", 1, 0.01)],
    "mobile": [row("torch_eager", 10), row("ort_fp32", 5), row("ov_fp32", 4), row("rt_float32", 20), row("rt_w8a8", 10, 0.2)],
}  # fmt: skip


def test_missing_operators_by_the_networks_they_hold_back() -> None:
    soft, hard = summary.missing(CANNED)
    assert (soft.operator, soft.networks, soft.alone, soft.calls) == (SOFT, ["mobile", "tcn"], ["mobile"], 3)
    assert hard.tight == ["tcn"] and hard.alone == []
    assert summary.order(CANNED) == [(SOFT, 1), (HARD, 2)]
    assert [(head, len(group)) for head, group in summary.failures(CANNED)] == [
        ("not captured: got Branchy, which branches", 1)
    ]
    assert summary.share_native(CANNED) == 0.25 and sum(summary.heads(CANNED).values()) == len(CANNED)
    assert set(summary.heads(CANNED)) == set(STATUSES)
    text = summary.missing_text(CANNED)
    assert text.index(f"{SOFT}: 2 networks") < text.index(f"{HARD}: 1 networks") < text.index("branchy: compile")
    assert "wholly native: 25%" in summary.survey_text(CANNED)


def test_ratios_and_shares() -> None:
    beside_ort = figures.ratios(TIMES, figures.beside("ort_fp32"), "rt_float32")
    assert beside_ort.values == (4.0, 0.25) and beside_ort.mean == pytest.approx(1.0)
    assert beside_ort.below_one == ("mobile",)
    best = figures.ratios(TIMES, figures.best_exact_peer, "rt_float32")
    assert best.values == (4.0, 0.2)
    assert figures.ratios({}, figures.beside("ort_fp32"), "rt_float32").mean is None
    assert figures.accurate(TIMES, "rt_w8a8", "int8") == ("policy",)


def test_page_from_canned_results(tmp_path: Path) -> None:
    target = tmp_path / "zoo.md"
    target.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    survey_record = {"networks": {one.name: one.as_json() for one in CANNED}}
    latency = {"networks": {name: [r.as_json() for r in rows] for name, rows in TIMES.items()}}
    page.write(survey_record, latency, target)
    text = target.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| wholly native | 25% |" in text and "| captured whole | 3 of 4 (75%) |" in text
    assert "| float32 beside ONNX Runtime fp32, geometric mean | 1.00x (2 networks) |" in text
    assert "| slower than torch eager | 1 of 2 (50%) |" in text
    assert "| W8A8 with an error of at most 3 % | 1 of 2 (50%) |" in text
    assert "| vision | 3 | 0 | 0.25x | 0.50x |" in text
    assert f"| `{SOFT}` | 2 | 1 | 3 |" in text and "a\\|b" in text
    assert "| policy | torch | 4/4 | 2.0e-07 | 1.0 | 40 | - | **8** | 6 | - | - | **2** | 1 |  |" in text
    assert "- branchy (not captured): compile: got Branchy" in text and "- gone: not installed: none" in text
    page.write(survey_record, {}, target)
    assert "| policy | torch | 4/4 | 2.0e-07 | 1.0 |  |" in target.read_text()


def test_newest_latencies_are_by_date(tmp_path: Path) -> None:
    assert results.newest_latency(tmp_path) is None
    for name in ("zoo-b-2026-01-02.json", "zoo-a-2026-02-01.json", "zoo-survey.json"):
        results.write(tmp_path / name, {"networks": {}})
    newest = results.newest_latency(tmp_path)
    assert newest is not None and newest.name == "zoo-a-2026-02-01.json"
    assert results.read(tmp_path / "none.json") == {}


def test_command_line_lists_and_resumes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command_line.main(["list", "nn_transformer_*"])
    assert capsys.readouterr().out.splitlines() == [
        "nn_transformer_encoder: transformers, torch", "nn_transformer_decoder: transformers, torch",
    ]  # fmt: skip
    asked: list[str] = []
    monkeypatch.setattr(command_line, "survey_all", lambda chosen, *rest: asked.extend(e.name for e in chosen))
    stored = tmp_path / "survey.json"
    results.write(stored, {"networks": {"nn_transformer_encoder": CANNED[0].as_json()}})
    command_line.main(["survey", "nn_transformer_*", "--resume", "--out", str(stored)])
    assert asked == ["nn_transformer_decoder"]


def test_every_row_has_a_loader() -> None:
    assert {peer.kit for peer in PEERS} == set(LOADERS) and len(BY_NAME) == len(PEERS)
    assert [peer.name for peer in PEERS if peer.ours] == [figures.OURS, figures.OURS_INT8]


def test_calls_differ_and_their_answers_are_in_float64(tmp_path: Path) -> None:
    entry = KNOWN["nn_transformer_decoder"]
    case.prepare(entry, tmp_path)
    found = case.load(entry, tmp_path)
    assert len(found.calls) == case.CALLS and len(found.calibration) == case.CALIBRATION
    assert len(found.calls[0]) == 2 and found.want[0][0].dtype == np.float64
    assert not np.array_equal(found.calls[0][0], found.calls[1][0])
    assert not np.array_equal(found.calls[1][0], found.calibration[0][0])


def test_integers_stay_within_what_the_example_shows() -> None:
    draw = torch.Generator().manual_seed(0)
    example = (torch.tensor([[7, 0, 400]]), torch.tensor([50]), torch.randn(1, 4))
    for _ in range(20):
        columns, length, numbers = case.varied(example, draw)
        assert bool((columns <= example[0]).all()) and bool((columns >= 0).all()) and columns.dtype == torch.int64
        assert length.item() == 50 and not torch.equal(numbers, example[2])


@pytest.mark.usefixtures("forked_python")
def test_a_round_of_eager_and_ours_in_processes_of_their_own() -> None:
    chosen = [BY_NAME["torch_eager"], BY_NAME["rt_float32"], BY_NAME["rt_w8a8"]]
    timing = Timing(rounds=2, round_us=500, most=5)
    rows, used = run.run_one(KNOWN["nn_transformer_encoder"], chosen, timing, 120)
    assert [found.left_out for found in rows] == [None, None, None]
    eager, exact, eight = rows
    assert eager.error is not None and eager.error < 1e-6 and exact.error is not None and exact.error < 1e-5
    assert eight.error is not None and eight.error < 0.05 and used["torch"]
    assert exact.best_us is not None and exact.call_us is not None and exact.run_us is not None


def test_a_network_that_is_not_to_be_had_leaves_every_row_out() -> None:
    missing = [entry for entry in KNOWN.values() if entry.missing()]
    if not missing:
        pytest.skip("every package of the zoo is installed")
    rows, used = run.run_one(missing[0], [BY_NAME["torch_eager"], BY_NAME["rt_float32"]], Timing(rounds=1), 60)
    assert all(found.left_out and "not installed" in found.left_out for found in rows) and not used


def test_a_runtime_that_says_nothing_is_ended() -> None:
    rows, _ = run.run_one(KNOWN["nn_transformer_encoder"], [BY_NAME["rt_float32"]], Timing(rounds=1), 0.01)
    assert rows[0].left_out == "not ready after 0 s"
