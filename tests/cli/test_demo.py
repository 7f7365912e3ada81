"""`rtaccel demo`: end to end on the real recording, red for a broken kernel or a missed budget, and its parts."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rtaccel.cli import demo
from rtaccel.cli._demo import contestants, data, progress, train, verdict
from rtaccel.cli._demo.auroc import auroc
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError
from tests.support.processes.run import PYTHON

needs_river = pytest.mark.skipif(
    importlib.util.find_spec("river") is None, reason="river, which holds the recording, is not installed"
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the demo here with few steps and no ONNX Runtime: (exit code, JSON object, report)."""
    monkeypatch.setattr(demo, "QUICK", demo.Amount(steps=60, rounds=8, calls=100))
    monkeypatch.setattr(contestants, "onnx_runtime", lambda model, x: "ONNX Runtime is left out: not wanted here")

    def run(*words: str):
        report = tmp_path / "small.html"
        code = main(["demo", "--quick", "--json", "--out", str(report), *words])
        return code, json.loads(capsys.readouterr().out), report

    return run


# -- the whole -----------------------------------------------------------------------------------------------------


@needs_river
def test_default_budget_is_met_and_the_report_is_complete(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    command = [*PYTHON, "-m", "rtaccel.cli.main", "demo", "--quick", "--out", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training: 150 of 150 steps" in done.stderr
    *_, time, quality, exact, last = done.stdout.splitlines()
    assert re.fullmatch(r"PASS: p99 of 2,000 calls is at most [\d.]+ us \(99 % confidence\), budget 200 us", time)
    assert re.fullmatch(r"PASS: AUROC 0\.99\d\d in float32 and 0\.9[89]\d\d in int8, a drop of .*", quality)
    assert exact == "PASS: all 176,688 int8 network outputs equal the plain-torch kernels' bit for bit"
    assert last == "verdict: PASS"
    source = report.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|src=|href=|<script", source)
    assert 'class="banner PASS"' in source
    for name in ("torch eager", "ONNX Runtime", "rtaccel float32, bound call", contestants.JUDGED, "AUROC drop"):
        assert name in source
    installed = all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript"))
    assert ("ONNX Runtime is left out" in done.stdout) != installed


@needs_river
def test_json_is_all_that_is_printed_and_the_same_for_the_same_seed(small) -> None:
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    code, first, _ = small("--seed", "3")
    _, second, _ = small("--seed", "3")
    _, other, _ = small("--seed", "4")
    assert proven(first)[1:] == ["PASS", "PASS"]
    assert (code == 0) == (first["verdict"] == "PASS")
    assert first["left_out"] == ["ONNX Runtime is left out: not wanted here"]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads
    rows = {row["name"]: row for row in first["rows"]}
    assert rows[contestants.JUDGED]["size_bytes"] < rows["torch eager"]["size_bytes"] / 3
    assert {row["n"] for row in first["rows"]} == {800}
    assert first["environment"]["torch_threads"] == 1

    def quality(found: dict) -> list[float]:
        return [found["loss"], *(row["auroc"] for row in found["rows"])]

    assert quality(first) == quality(second)
    assert quality(first) != quality(other)


@needs_river
def test_absurd_budget_fails_and_says_so(small) -> None:
    code, found, report = small("--budget", "0.001")
    assert (code, found["verdict"]) == (1, "FAIL")
    assert re.match(r"FAIL: p99 of 800 calls, [\d.]+ us, budget 0\.001 us", found["proven"][0])
    source = report.read_text(encoding="utf-8")
    assert 'class="banner FAIL"' in source
    assert "budget 0.001 us" in source


def proven(found: dict) -> list[str]:
    """The verdicts on time, quality and equality. The first one is the machine's too: a busy one may leave it undecided."""
    verdicts = [text.partition(":")[0] for text in found["proven"]]
    assert verdicts[0] in ("PASS", "UNDECIDED")
    return verdicts


def sabotage(monkeypatch: pytest.MonkeyPatch, change, everywhere: bool = False) -> None:
    """Changes the numbers of the int8 model after it is compiled: of the native one or of its reference too."""
    honest = contestants.compiler.compile

    def compile_(model, example, scheme, **options):
        fast = honest(model, example, scheme, **options)
        if scheme.name == "w8a8" and (everywhere or "backend" not in options):
            state = {key: value.clone() for key, value in fast.state_dict().items()}
            change(state)
            fast.load_state_dict(state)
        return fast

    monkeypatch.setattr(contestants.compiler, "compile", compile_)


@needs_river
def test_one_weight_off_by_one_step_turns_it_red(small, monkeypatch: pytest.MonkeyPatch) -> None:
    def nudge(state: dict[str, torch.Tensor]) -> None:
        weight = state["params.15.weight"]
        row = weight[0]
        column = int(row.int().abs().argmin())  # away from the ends of the range
        row[column] += 1

    sabotage(monkeypatch, nudge)
    code, found, _ = small()
    assert code == 1
    assert proven(found)[1:] == ["PASS", "FAIL"]
    assert re.match(r"FAIL: [\d,]+ of 176,688 int8 network outputs differ", found["proven"][2])


@needs_river
def test_lost_quality_turns_it_red_even_where_the_kernels_agree(small, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(state: dict[str, torch.Tensor]) -> None:
        state["params.15.weight"].zero_()
        state["params.15.bias"].copy_(torch.tensor([1000.0, -1000.0]).repeat(36))

    sabotage(monkeypatch, forget, everywhere=True)
    code, found, report = small()
    assert code == 1
    assert proven(found)[1:] == ["FAIL", "PASS"]
    assert found["auroc_drop"] > 0.1
    assert "Over budget" in report.read_text(encoding="utf-8")


@needs_river
def test_a_call_that_writes_nothing_turns_it_red(small, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = contestants.bound

    def lazy(name, fast, x):
        made = honest(name, fast, x)
        return contestants.Contestant(name, lambda: None, made.given, made.out, made.size_bytes)

    monkeypatch.setattr(contestants, "bound", lazy)
    code, found, _ = small()
    assert code == 1
    assert proven(found)[1:] == ["FAIL", "FAIL"]
    assert found["auroc_drop"] is None


# -- wrong use -----------------------------------------------------------------------------------------------------


def test_without_river_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "river" else find(name, *rest))
    assert main(["demo", "--out", str(tmp_path / "r.html")]) == 2
    assert "pip install 'rtaccel[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "0"], "p99_us=0.0"),
        (["--budget", "nan"], "p99_us=nan"),
        (["--max-auroc-drop", "-1"], "max_error=-1.0"),
        (["--out", "no/such/folder/report.html"], "--out no/such/folder/report.html"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(words: list[str], told: str, capsys) -> None:
    assert main(["demo", *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


# -- the parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_auroc_equals_the_count_over_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 120))
    positive = generator.random(n) < generator.random()
    positive[0], positive[1] = True, False
    scores = generator.integers(0, [2, 5, 1000][seed % 3], n).astype(float)  # many ties, some, hardly any
    scores[generator.integers(0, n)] = math.inf
    good, bad = scores[positive][:, None], scores[~positive][None]
    expected = ((good > bad).sum() + 0.5 * (good == bad).sum()) / (good.size * bad.size)
    assert auroc(scores, positive) == pytest.approx(expected, abs=1e-12)
    assert auroc(-scores, positive) == pytest.approx(1 - expected, abs=1e-12)


def test_auroc_at_its_ends() -> None:
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auroc([1, 2, 3, 4], [True, True, False, False]) == 0.0
    assert auroc([7, 7, 7], [True, False, True]) == 0.5
    assert math.isnan(auroc([1, math.nan], [True, False]))
    for scores, classes in (([1, 2], [True, True]), ([1, 2], [False, False]), ([1, 2], [True]), ([], [])):
        with pytest.raises(FormatError):
            auroc(scores, classes)


@needs_river
def test_recording_is_complete_and_standardised() -> None:
    recording = data.load()
    assert (recording.readings, recording.anomalies) == (49_097, 3_511)
    split = int(49_097 * data.TRAIN_SHARE)
    assert len(recording.windows) == (49_097 - split) // data.WINDOW
    assert recording.normal.abs().max() <= data.CLAMP
    # A clamped standard normal reading: the tails that the clamp takes can only bring both nearer to 0.
    assert recording.normal.mean(dim=0).abs().max() < 0.1
    assert recording.normal.std(dim=0).max() < 1.05


def test_windows_carry_their_own_labels_and_normal_statistics() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(3.0, 2.0, (203, 4))
    anomaly = np.zeros(203, dtype=bool)
    anomaly[[5, 130, 137, 150]] = True
    values[anomaly] = 1e6
    recording = data.prepare(values, anomaly)
    split = 121
    assert len(recording.normal) == split - 1  # reading 5 is in the training part
    assert recording.normal.mean(dim=0).abs().max() < 1e-5  # the anomaly is in no statistic
    expected = [anomaly[i : i + 8].any() for i in range(split, 203 - 7, 8)]
    assert recording.anomalous.tolist() == expected
    assert recording.windows.shape == (10, 32)
    assert recording.windows.reshape(80, 4)[130 - split].tolist() == [data.CLAMP] * 4
    windows = data.normal_windows(recording.normal, 50, torch.Generator().manual_seed(1))
    lines = recording.normal.unfold(0, 8, 1).transpose(1, 2).reshape(-1, 32)
    assert all((lines == window).all(dim=1).any() for window in windows)


def test_scores_are_mean_squared_errors() -> None:
    outputs, windows = torch.randn(5, 72), torch.randn(5, 72)
    expected = [sum((float(o) - float(w)) ** 2 for o, w in zip(a, b)) / 72 for a, b in zip(outputs, windows)]
    torch.testing.assert_close(train.scores(outputs, windows), torch.tensor(expected, dtype=torch.float64))


def test_exactness_counts_nan_and_every_difference() -> None:
    expected = torch.randn(4, 3)
    assert verdict.exactness(expected.clone(), expected).verdict == "PASS"
    broken = expected.clone()
    broken[0, 0], broken[3, 2] = math.nan, broken[3, 2] + 1
    line = verdict.exactness(broken, expected)
    assert (line.verdict, line.value) == ("FAIL", 2)


def test_plain_progress_ends_at_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("training", 7) as advance:
        for step in range(7):
            advance(float(step))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == progress.LINES
    assert lines[-1] == "training: 7 of 7 steps, loss 6.000"


def test_rich_bar_shows_steps_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed (pip install 'rtaccel[demo]')")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.bar("training", 3) as advance:
        for _ in range(3):
            advance(0.25)
    assert "3/3" in screen.getvalue()
    assert "loss 0.250" in screen.getvalue()
