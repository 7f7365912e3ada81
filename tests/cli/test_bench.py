"""`rtaccel bench`: the suite, shapes files, budgets, and the comparison of two versions in one interleaved run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from rtaccel.cli._bench.suite import check, of_batch
from rtaccel.cli._common import cases as _cases
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import operators


def test_names_of_the_suite(shapes: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: op for name, op in operators().items() if name in ("softmax", "linear", "concat")}
    monkeypatch.setattr(_cases, "operators", lambda: few)  # making the cases of all of them takes seconds
    assert main(["bench", "--list", "--json", "--shapes", shapes]) == 0
    names = json.loads(capsys.readouterr().out)["names"]
    assert "softmax/tiny/cpu_portable" in names
    assert "linear/16x8/portable_torch" in names
    assert {name.partition("/")[0] for name in names} == set(few)
    assert len(set(names)) == len(names)
    assert main(["bench", "--list", "softmax/*/cpu_*", "--shapes", shapes]) == 0
    found = capsys.readouterr().out.split()
    assert found == [name for name in names if name.startswith("softmax/") and "/cpu_" in name]
    assert main(["bench", "--list", "*x8/*_portable", "--shapes", shapes]) == 0  # a wildcard stands for slashes too
    assert "linear/16x8/cpu_portable" in capsys.readouterr().out.split()


def test_budgets_by_name_decide_the_exit_code(shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budgets = tmp_path / "budgets.toml"
    name = "softmax/tiny/cpu_portable"
    words = ["bench", name, "--shapes", shapes, "--seconds", "0.05", "--budgets", str(budgets)]
    budgets.write_text(
        f'[budget."{name}"]\np50_us = 1e6\n[budget."linear/16x8/cpu_portable"]\np50_us = 1\n'
        '[budget."softmax/tiny/cpu_amx"]\np50_us = 1\n'
    )
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in found["rows"]] == ["PASS"]
    assert found["budgets_unused"] == ["linear/16x8/cpu_portable"]
    assert found["budgets_elsewhere"] == ["softmax/tiny/cpu_amx"]
    budgets.write_text(f'[budget."{name}"]\np50_us = 0.0001\n')
    assert main([*words, "--out", str(tmp_path / "r.html")]) == 1
    text = capsys.readouterr().out
    assert "FAIL" in text
    assert 'class="banner FAIL"' in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("row", "near"),
    [
        ("softmax/tiny/portable_troch", "softmax/tiny/portable_torch"),
        ("softmax/tinny/cpu_portable", "softmax/tiny/portable_torch"),
        ("sofmax/tiny/portable_torch", "softmax/tiny/portable_torch"),
        ("nets.py:polcy", None),
        ("elsewhere.py:policy", None),
        ("no.such.module:policy", None),
    ],
)
def test_a_row_that_names_nothing_is_an_error_and_not_a_gate_that_is_gone(
    shapes: str, row: str, near: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    few = {name: op for name, op in operators().items() if name in ("softmax", "linear")}
    monkeypatch.setattr(_cases, "operators", lambda: few)
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("def policy():\n    raise AssertionError('it is not imported')\n")
    budgets = tmp_path / "budgets.toml"
    name = "softmax/tiny/cpu_portable"
    words = ["bench", name, "--shapes", shapes, "--seconds", "0.05", "--budgets", str(budgets)]
    rows = f'[budget."{name}"]\np50_us = 1e6\n[budget."nets.py:policy"]\np50_us = 1\n'
    budgets.write_text(f'{rows}[budget."{row}"]\np50_us = 1\n')
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f'"{row}"' in error
    assert near is None or near in error
    budgets.write_text(rows)
    assert main(words) == 0
    assert "was not asked for: nets.py:policy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[linear", "shapes file"),
        ("[linear]\nn = 1", "[[linear]]"),
        ("[[nonsense]]\nname = 'x'\nrows = 1", "operators:"),
        ("[[softmax]]\nrows = 1\nc = 3", "without name"),
        ("[[softmax]]\nname = 'x'\nrows = 0\nc = 3", "rows = 0"),
        ("[[softmax]]\nname = 'x'\nrows = 1\nwidth = 3", "make_stage"),
        ("[[linear]]\nname = 'x'\nrows = 1\nn = 1", "make_stage"),
        ("[[concat]]\nname = 'x'\nrows = 1", "conformance case"),
    ],
)
def test_bad_shapes_files(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shapes.toml"
    path.write_text(text)
    assert main(["bench", "--list", "--shapes", str(path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["softmax/no-such-case/*"],
        ["--shapes", "no/such/file.toml"],
        ["--against", "HEAD", "--rounds", "2", "--processes", "3"],
        ["--against", "HEAD", "--threshold", "-1"],
        ["--against", "HEAD", "--budgets", "b.toml"],
        ["--against", "HEAD", "--out", "r.html"],
        ["--out", "no/such/folder/r.html"],
    ],
)
def test_bad_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert "rtaccel bench: error:" in capsys.readouterr().err


def test_a_sweep_measures_every_point_and_writes_csv(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import torch\ndef policy():\n    return torch.nn.Linear(6, 4).eval(), (torch.randn(3, 6),), [torch.randn(9, 6)]\n"
    )
    words = ["bench", "nets.py:policy", "--seconds", "0.02", "--csv", "r.csv", "--json", "--sweep", "batch=1,5"]
    Path("b.toml").write_text('[budget."nets.py:policy [batch=5, scheme=w8a8]"]\np50_us = 1e6\n')
    assert main([*words, "--sweep", "scheme=float32,w8a8", "--budgets", "b.toml"]) == 0
    found = json.loads(capsys.readouterr().out)
    points = [{"batch": b, "scheme": s} for b in (1, 5) for s in ("float32", "w8a8")]
    assert [row["point"] for row in found["rows"]] == points
    assert [row["verdict"] for row in found["rows"]] == [None, None, None, "PASS"]
    with Path("r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["batch"], row["scheme"]) for row in rows] == [(str(p["batch"]), p["scheme"]) for p in points]
    assert all(float(row["p50_us"]) > 0 for row in rows)
    assert main(["bench", "softmax/tiny/*", "--shapes", shapes, "--list", "--sweep", "batch=1,8"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "softmax/tiny/cpu_portable [batch=8]" in names
    assert (
        main(["bench", names[0].partition(" [")[0], "--shapes", shapes, "--seconds", "0.02", "--sweep", "batch=7"]) == 0
    )


@pytest.mark.parametrize(
    "bad", ["batch", "batch=", "batch=0", "batch=x", "batch=1,1", "size=3", "batch=1,", "threads=-1", "=1"]
)
def test_bad_sweeps(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "softmax/*", "--sweep", bad]) == 2
    assert "--sweep" in capsys.readouterr().err


def test_axes_of_targets_are_refused_for_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "softmax/*", "--sweep", "scheme=w8a8"]) == 2
    assert "targets alone" in capsys.readouterr().err


def test_examples_of_another_batch() -> None:
    x, y, scalar = torch.arange(6.0).reshape(3, 2), torch.arange(3), torch.tensor(4.0)
    a, b, c, d = of_batch((x, y, scalar, torch.ones(7, 2)), 5)
    assert torch.equal(a, x[[0, 1, 2, 0, 1]])
    assert torch.equal(b, y[[0, 1, 2, 0, 1]])
    assert c is scalar
    assert d.shape == (7, 2)
    with pytest.raises(UnsupportedProblem, match="without samples"):
        of_batch((torch.ones(0, 2),), 5)


def test_wrong_results_have_no_speed() -> None:
    ((op, case),) = _cases.cases(wanted=lambda name: name == "softmax")
    inputs = case.make(1)
    good = operators()[op].reference(case.stage, *inputs)
    check(case, good, inputs)
    with pytest.raises(UnsupportedProblem, match="wrong results"):
        check(case, [good[0] * torch.nan], inputs)


def test_cases_from_words() -> None:
    assert _cases.parse_case(["rows=4", "k=8", "scheme=static", "parameter=0.5", "affine=true"]) == (
        4,
        {"k": 8, "scheme": "static", "parameter": 0.5, "affine": True},
    )
    for bad in (["rows"], ["=3"], ["k=1", "k=2"], ["rows=-1"]):
        with pytest.raises(FormatError):
            _cases.parse_case(bad)


# -- two versions ------------------------------------------------------------------------------------------------------


# -- building another ref ----------------------------------------------------------------------------------------------
