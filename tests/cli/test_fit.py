"""`rtaccel fit`: a file with a model and a metric, a budget, and the exit code that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtaccel.cli._common.budget import parse_budget
from rtaccel.cli.fit import parse_drop, parse_keep, parse_options
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError
from rtaccel.core.layer_forms import LowRank
from rtaccel.core.settings import STAGE_TIMES
from rtaccel.core.sparsity import BlockSparse, Unstructured
from rtaccel.search.metric import Relative

CODE = """
import torch

torch.manual_seed(0)
MODEL = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
X = torch.randn(400, 32)
Y = MODEL(X[200:]).detach()

def model():
    return MODEL, X[:1], [X[:200]]

def fit(m):
    return 1 - float((m(X[200:]) - Y).square().mean() / Y.var())

def broken(m):
    raise RuntimeError("the labels are gone")

NUMBER = 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(STAGE_TIMES, "0")
    (tmp_path / "task.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return "task.py"


def run(code: str, *words: str, metric: str = "fit") -> int:
    return main(["fit", f"{code}:model", "--metric", f"{code}:{metric}", "--seconds", "120", *words])


def test_a_budget_that_is_kept(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(code, "--budget", "p50=1s", "--html", "fit.html", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["verdict"] == "PASS" and found["budget"] == {"p50_us": 1e6}
    assert set(found["scheme"]) == {"0", "2"}
    assert Path("fit.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "sensitivity" in err and "export" in err


def test_a_budget_that_is_not(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(code, "--budget", "size=100", "--options", "w8a8,lowrank=0.5") == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "metric", "code_wanted", "said"),
    [
        ((), "fit", 2, "no --budget"),
        (("--budget", "p99=fast"), "fit", 2, "KEY=LIMIT"),
        (("--budget", "p99=5us", "--options", "w8a9"), "fit", 2, "Did you mean 'w8a8'"),
        (("--budget", "p99=5us", "--options", "rank=0.5"), "fit", 2, "lowrank=0.5"),
        (("--budget", "p99=5us", "--keep", "head"), "fit", 2, "PATTERN=SCHEME"),
        (("--budget", "p99=5us", "--keep", "head=float32"), "fit", 2, "fits no layer"),
        (("--budget", "p99=5us", "--max-drop", "little"), "fit", 2, "--max-drop"),
        (("--budget", "p99=5us"), "nothing", 2, "no function 'nothing'"),
        (("--budget", "p99=5us"), "NUMBER", 2, "no function 'NUMBER'"),
        (("--budget", "p99=5us"), "broken", 3, "the labels are gone"),
    ],
)
def test_what_is_refused(
    code: str, words: tuple[str, ...], metric: str, code_wanted: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(code, *words, metric=metric) == code_wanted
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pairs", "row"),
    [
        (["p99=5us"], {"p99_us": 5.0}),
        (["p99=250ns", "size=300kB"], {"p99_us": 0.25, "size_bytes": 300_000}),
        (["p50=1.5ms", "p99.9=2s", "peak=1MiB"], {"p50_us": 1500.0, "p999_us": 2e6, "peak_bytes": 1 << 20}),
        (["p99_us=5", "size_bytes=40_000"], {"p99_us": 5.0, "size_bytes": 40_000}),
        (["p99=7", "size=512"], {"p99_us": 7.0, "size_bytes": 512}),
    ],
)
def test_limits_with_units(pairs: list[str], row: dict[str, float]) -> None:
    budget = parse_budget(pairs)
    assert budget is not None and budget.as_dict() == pytest.approx(row)


@pytest.mark.parametrize(
    "pairs", [["p99=5kB"], ["p99=us"], ["size=3us"], ["p99=5us", "p99_us=6"], ["p98=5us"], ["p99"]]
)
def test_limits_that_are_none(pairs: list[str]) -> None:
    with pytest.raises(FormatError):
        parse_budget(pairs)


def test_an_early_exit_is_an_option() -> None:
    plain, named = parse_options("exit,w8a8,exit=entropy")[::2]
    assert [one.tests[0].test for one in (plain, named)] == ["confidence", "entropy"]
    with pytest.raises(FormatError, match="sure"):
        parse_options("exit=sure")


def test_words_become_values() -> None:
    assert parse_drop("1%") == Relative(0.01) and parse_drop("0.02") == 0.02
    assert parse_options("w8a8, 2:4,blocks=0.8,unstructured=0.9,lowrank=0.5") == [
        "w8a8", "2:4", BlockSparse((16, 16), 0.8), Unstructured(0.9), LowRank(0.5),
    ]  # fmt: skip
    kept: Any = parse_keep(["head=float32", "*.out=w8a8"])
    assert kept == {"head": "float32", "*.out": "w8a8"} and parse_keep([]) is None
