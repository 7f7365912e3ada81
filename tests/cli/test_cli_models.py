"""Verbs that take a model: targets and what is wrong with them, `explain` and `profile`, their files and exit codes."""

from __future__ import annotations

import argparse
import json
import mmap
import sys
from pathlib import Path

import pytest

from rtaccel.cli import profile
from rtaccel.cli._common import budget as _budget
from rtaccel.cli._common import target as _target
from rtaccel.cli.main import main
from rtaccel.measure.machine.memory import peak_memory

NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)).eval(), (torch.randn(1, 6),), [torch.randn(64, 6)]

pair = (nn.Linear(4, 4).eval(), torch.randn(1, 4))
lonely = nn.Linear(4, 4)
number = 7

def compiled():
    import rtaccel as rt
    model, inputs, _ = net()
    return rt.compile(model, inputs), inputs

class Branches(nn.Module):
    def forward(self, x):
        return x + 1 if float(x.sum()) > 0 else x - 1

def uncaptured():
    return Branches().eval(), (torch.randn(1, 4),)

def broken():
    raise ZeroDivisionError("in the user's own code")

def exits():
    raise SystemExit(0)

class Mismatched(nn.Module):
    def forward(self, x):
        return x @ torch.zeros(3, 3)

def mismatched():
    return Mismatched().eval(), (torch.randn(1, 4),)

def loader():
    def batches():
        yield torch.randn(3, 4)
        raise ValueError("of the loader")
    return nn.Linear(4, 4).eval(), (torch.randn(1, 4),), batches()

def typed():
    import rtaccel as rt
    rt.Budget(p99_us=-1)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("nets_of_mine.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return str(tmp_path / "nets_of_mine.py")


@pytest.mark.parametrize("name", ["net", "pair"])
def test_a_file_and_a_module_are_the_same_target(nets: str, name: str) -> None:
    for text in (f"{nets}:{name}", f"nets_of_mine:{name}"):
        target = _target.load_target(text)
        assert len(target.inputs) == 1
        assert (target.calibration is None) == (name == "pair")
        assert target.model(*target.inputs).shape[0] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nets_of_mine", "package.module:name"),
        (":net", "package.module:name"),
        ("nets_of_mine.py:", "package.module:name"),
        ("nets_of_mine.py:nothing", "no 'nothing'"),
        ("nets_of_mine.py:number", "gives int"),
        ("nets_of_mine.py:lonely", "gives Linear"),
        ("elsewhere.py:net", "There is no"),
        ("no_such_package.inner:net", "can be imported"),
        ("weights.pt:net", "not opened"),
        ("weights.pkl", "not opened"),
        ("weights.safetensors", "not opened"),
    ],
)
def test_what_is_no_target_is_told(nets: str, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", text]) == 2
    assert said in capsys.readouterr().err


def test_a_pickle_is_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    assert main(["profile", f"{path}:model"]) == 2
    assert not (tmp_path / "ran").exists()
    assert "weights_only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("broken", "ZeroDivisionError: in the user's own code"),
        ("exits", "SystemExit: 0"),
        ("mismatched", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("loader", "ValueError: of the loader"),
        ("typed", "FormatError: Budget"),
    ],
)
@pytest.mark.parametrize("verb", ["explain", "profile", "compile", "bench"])
def test_what_the_users_code_raises_ends_with_3_and_its_own_frames(
    nets: str, name: str, last: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, f"{nets}:{name}", "--scheme", "w8a8"]) == 3
    error = capsys.readouterr().err
    assert "your code raised" in error
    assert error.rstrip().splitlines()[-1].startswith((last, f"rtaccel.core.errors.{last}"))
    files = [line for line in error.splitlines() if line.lstrip().startswith("File ")]
    assert files
    assert all("nets_of_mine.py" in line for line in files)


def test_code_that_cannot_be_parsed_is_the_users(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("half.py").write_text("def net(:\n")
    assert main(["explain", "half.py:net"]) == 3
    error = capsys.readouterr().err
    assert "SyntaxError" in error
    assert "half.py" in error
    assert "cli" not in error


def test_an_interrupt_ends_with_130_in_one_line(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stopped.py").write_text("def net():\n    raise KeyboardInterrupt\n")
    assert main(["explain", "stopped.py:net"]) == 130
    assert capsys.readouterr().err == "rtaccel explain: interrupted\n"


def test_explain(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{nets}:net", "--scheme", "w8a8", "--no-times"]) == 0
    text = capsys.readouterr().out
    assert "linear(int8[1, 6])" in text
    assert "is preferred" in text
    assert main(["explain", f"{nets}:net", "--brief", "--no-times"]) == 0
    assert "is preferred" not in capsys.readouterr().out
    assert main(["explain", f"{nets}:net", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["kernel"].split("_")[0] for s in found["stages"]] == ["cpu", "cpu"]
    assert all(s["us"] > 0 and s["reasons"] for s in found["stages"])
    assert found["packed_bytes"] > 0
    assert found["environment"]["versions"]["rtaccel"]


def test_explain_of_a_model_that_is_not_captured(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{nets}:uncaptured", "--no-times"]) == 0
    assert "not captured" in capsys.readouterr().out
    assert main(["explain", f"{nets}:uncaptured", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_captured"]
    assert main(["profile", f"{nets}:uncaptured"]) == 2


def test_a_compiled_model_is_taken_as_it_is(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{nets}:compiled", "--no-times"]) == 0
    assert "float32[1, 6]" in capsys.readouterr().out
    assert main(["explain", f"{nets}:compiled", "--scheme", "w8a8"]) == 2
    assert "compiled already" in capsys.readouterr().err


def quick(*words: str) -> list[str]:
    return ["profile", *words, "--seconds", "0.1", "--calls", "20"]


def test_profile_writes_its_reports_and_exits_with_the_verdict(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'rtaccel[report]')")
    words = ["--scheme", "w8a8", "--out", "r.html", "--png", "r.png", "--markdown", "r.md", "--budget", "p99_us=100000"]
    assert main(quick(f"{nets}:net", *words, "--budget", "size_bytes=1_000")) == 0
    text = capsys.readouterr().out
    assert "verdict: PASS" in text
    assert "Peak memory of the process" in text
    page = Path("r.html").read_text()
    assert "Where the time goes" in page
    assert "MAC/ns" in page
    assert "rtaccel profile" in page
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    markdown = Path("r.md").read_text()
    assert "**PASS**" in markdown
    assert "| 0 (input) | cpu_" in markdown


def test_profile_as_json_and_over_budget(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quick(f"{nets}:net", "--json", "--no-roofline", "--budget", "p50_us=0.0001")) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "FAIL"
    assert found["roofline"] is None
    assert found["energy"] is None
    assert [r["name"] for r in found["results"]] == ["bound call", "call"]
    assert found["stages"]["whole_us"] > 0
    assert found["weight_bytes"] > 0
    assert [plan["packed_bytes"] > 0 for plan in found["plans"]] == [True]
    assert found["memory"]["peak_bytes"] is None or found["memory"]["peak_bytes"] >= found["memory"]["before_bytes"]
    assert "--budget p50_us=0.0001" in found["command"]


def test_profile_with_torchs_profiler(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backend", "portable", "--with", "torch", "--no-roofline"]
    assert main(quick(f"{nets}:net", *words)) == 0
    assert "aten::" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--budget", "p99_us"],
        ["--budget", "p99_us=fast"],
        ["--budget", "p99_us=1", "--budget", "p99_us=2"],
        ["--budget", "p98_us=1"],
        ["--budget", "p99_us=0"],
        ["--out", "no/such/folder/report.html"],
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "elsewhere.py:net", *words]) == 2
    assert "elsewhere" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdicts", "allow", "code"),
    [
        ([], False, 0), ([None, "PASS"], False, 0), (["PASS", "FAIL"], True, 1), (["UNDECIDED"], False, 1),
        (["UNDECIDED"], True, 0),
    ],
)  # fmt: skip
def test_exit_code(verdicts: list[str | None], allow: bool, code: int) -> None:
    assert _budget.exit_code(verdicts, allow) == code


def test_the_command_in_a_report_is_the_one_that_made_it(nets: str) -> None:
    parser = argparse.ArgumentParser()
    profile.configure(parser)
    words = [nets, "--scheme", "w8a8", "--seconds", "0.5", "--budget", "p99_us=5", "--no-roofline", "--energy"]
    again = profile._words(parser.parse_args(words))
    assert again[:2] == ["rtaccel", "profile"]
    assert parser.parse_args(again[2:]) == parser.parse_args(words)


def test_peak_memory_sees_what_a_call_takes() -> None:
    small = peak_memory(lambda: None)
    if small.reason is not None:
        assert small.peak_bytes is None
        pytest.skip(small.reason)

    def pages() -> None:  # of the system: memory that the process freed before would not show
        with mmap.mmap(-1, 64 << 20) as memory:
            for at in range(0, len(memory), 4096):
                memory[at] = 1

    taken = peak_memory(pages)
    assert taken.grown_bytes is not None and taken.grown_bytes > 60 << 20
    assert small.grown_bytes is not None and small.grown_bytes < 30 << 20
