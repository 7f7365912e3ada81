"""The command line: verbs found by file name, `info`, exit codes."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest

import rtaccel
from rtaccel import backends
from rtaccel.backends.base import Backend
from rtaccel.cli import info, main
from rtaccel.core.errors import BudgetExceeded, FormatError
from tests.support.processes.run import PYTHON


def run(*words: str, module: str = "rtaccel.cli.main") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, "-m", module, *words], capture_output=True, text=True, timeout=120)


def test_version() -> None:
    for module in ("rtaccel", "rtaccel.cli.main"):
        done = run("--version", module=module)
        assert (done.returncode, done.stdout) == (0, f"rtaccel {rtaccel.__version__}\n")


@pytest.mark.parametrize("words", [[], ["no-such-verb"], ["info", "--no-such-option"]])
def test_wrong_usage_exits_2_without_a_traceback(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "usage: rtaccel" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_verb_has_help_takes_json_and_is_listed() -> None:
    assert "info" in main.verb_names()
    assert "main" not in main.verb_names()
    listed = main.build_parser(main.verb_names()).format_help()
    for name in main.verb_names():
        module = importlib.import_module(f"rtaccel.cli.{name.replace('-', '_')}")
        assert module.HELP
        assert callable(module.run)
        assert name in listed
        parser = argparse.ArgumentParser()
        module.configure(parser)
        assert "--json" in parser.format_help(), name


def test_every_verb_is_in_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "command-line.md").read_text()
    assert [verb for verb in main.verb_names() if f"| `{verb}` |" not in page] == []


def test_info_lists_every_backend() -> None:
    done = run("info", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    entries = {entry["name"]: entry for entry in found["backends"]}
    assert set(entries) == set(backends.backends())
    assert entries["portable"]["available"]
    assert entries["portable"]["facts"]["torch"]
    for entry in entries.values():
        assert entry["available"] == (entry["reason"] is None)
        assert entry["available"] or entry["remedy"]
    assert found["environment"]["versions"]["rtaccel"]
    assert isinstance(found["environment"]["isa"], list)


def test_info_says_why_not_and_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def never() -> dict[str, object]:
        raise AssertionError("facts of a backend that cannot run were asked for")

    table = {
        "gpu": Backend("gpu", 9, ("cuda",), lambda: "there is no card", "Plug one in.", never),
        "plain": Backend("plain", 0, ("cpu",), lambda: None, "", lambda: {"speed": "slow"}),
    }
    monkeypatch.setattr(backends, "backends", lambda: table)
    assert main.main(["info"]) == 0
    text = capsys.readouterr().out
    assert (
        text.index("not here: there is no card")
        < text.index("next: Plug one in.")
        < text.index("ready on cpu: speed slow")
    )
    assert main.main(["info", "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)["backends"]] == ["gpu", "plain"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(BudgetExceeded("model", "p99 of 60 us", "50 us", "Try int8."), 1), (FormatError("x", "got", "exp", "Next."), 2)],
)
def test_typed_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    verb = SimpleNamespace(HELP="fails", configure=lambda parser: None, run=fail)
    monkeypatch.setattr(main, "verb_names", lambda: ["fail"])
    monkeypatch.setattr(main, "_verb", lambda name: verb)
    assert main.main(["fail"]) == code
    assert str(error) in capsys.readouterr().err


def test_a_fault_of_rtaccel_is_shown_whole_and_is_no_failed_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(info, "render", lambda found: found["missing"])
    monkeypatch.setattr(info.render, "__code__", _fault_of_ours())
    assert main.main(["info"]) == 70
    error = capsys.readouterr().err
    assert "KeyError: 'missing'" in error
    assert "a fault of rtaccel" in error


def _fault_of_ours() -> CodeType:
    """Code that fails, as if it stood in a file of the package."""
    code = compile("lambda found: found['missing']", info.__file__, "eval").co_consts[0]
    assert isinstance(code, CodeType)
    return code


def test_exit_codes_are_said_in_every_help() -> None:
    parser = main.build_parser(main.verb_names())
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert set(verbs) == set(main.verb_names())
    for text in (parser.format_help(), *(verb.format_help() for verb in verbs.values())):
        said = " ".join(text.split())
        assert all(f"{code} " in said.partition("exit codes:")[2] for code in (0, 1, 2, 3, 70, 130))


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m rtaccel.cli.main info | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr
