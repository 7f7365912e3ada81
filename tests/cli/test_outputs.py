"""Every option that names an output, with paths that nothing can be written to: a message, no traceback, nothing left."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.cli import main
from rtaccel.core.errors import FormatError

NETS = """
import torch
from torch import nn
def net():
    return nn.Linear(6, 4).eval(), (torch.randn(2, 6),)
def metric(model):
    return 1.0
"""

WORDS = {
    "bench": "bench nets.py:net --seconds 0.01",
    "build-kernels": "build-kernels nets.py:net --arch sm_90",
    "compile": "compile nets.py:net",
    "demo": "demo --quick",
    "detect": "detect series.csv",
    "fit": "fit nets.py:net --metric nets.py:metric --max-drop 1 --budget p99_us=1e6 --seconds 1",
    "kernel-sources": "kernel-sources model.rta",
    "pack": "pack model.rta",
    "profile": "profile nets.py:net --seconds 0.01 --calls 2 --no-roofline",
}
OUTPUTS = {"--out", "--csv", "--html", "--scores", "--png", "--markdown", "--machine-profile"}
FOLDERS = {("build-kernels", "--out"), ("pack", "--out")}
ENDINGS = {"compile": ".safetensors"}


def options() -> list[tuple[str, str]]:
    found = []
    for verb in main.verb_names():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"rtaccel.cli.{verb.replace('-', '_')}").configure(parser)
        found += [(verb, name) for action in parser._actions for name in action.option_strings if name in OUTPUTS]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("series.csv").write_text("time,value\n" + "".join(f"{i},{i % 7}\n" for i in range(60)))
    Path("file").write_text("mine")
    Path("folder.html").mkdir()
    Path("folder.safetensors").mkdir()
    rt.save(rt.compile(nn.Linear(6, 4).eval(), torch.randn(2, 6)), "model.rta")
    return tmp_path


def paths(verb: str, option: str) -> list[str]:
    end = ENDINGS.get(verb, ".html")
    wrong = [f"file/x{end}", f"/proc/x{end}", "x" * 300 + end]
    return [*wrong, "file"] if (verb, option) in FOLDERS else [*wrong, "", f"folder{end}", f"gone/x{end}"]


@pytest.mark.parametrize(("verb", "option"), options(), ids="".join)
def test_a_path_that_cannot_be_written(
    verb: str, option: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if option == "--png":
        pytest.importorskip("matplotlib")
    if verb == "build-kernels":
        pytest.importorskip("triton")
    for path in paths(verb, option):
        assert main.main([*WORDS[verb].split(), option, path]) == main.USAGE, path
        error = capsys.readouterr().err
        assert "Traceback" not in error and "expected" in error, error
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert kept == before


@pytest.mark.parametrize(
    "words", ["compile nets.py:net --out full.safetensors", "detect series.csv --html full.safetensors"]
)
def test_a_disk_that_is_full_and_a_link_to_it(words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full is neither replaced by a file, as root could, nor is the link."""
    link = folder / "full.safetensors"
    link.symlink_to("/dev/full")
    assert main.main(words.split()) == main.USAGE
    assert "no space left" in capsys.readouterr().err
    assert link.is_symlink() and Path("/dev/full").is_char_device()


def test_a_link_stays_and_a_device_is_written_to(folder: Path) -> None:
    fast = rt.compile(nn.Linear(6, 4).eval(), torch.randn(2, 6))
    (folder / "link.rta").symlink_to("model.rta")
    rt.save(fast, folder / "link.rta", name="other")
    assert (folder / "link.rta").is_symlink()
    assert rt.load(folder / "model.rta").name == "other"
    rt.save(fast, "/dev/null")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(FormatError, match="no space left"):
        rt.save(fast, "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_what_the_system_refuses_on_the_way_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rtaccel.cli import info

    def full(args: Any) -> int:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(info, "run", full)
    assert main.main(["info"]) == main.USAGE
    assert "/somewhere" in (error := capsys.readouterr().err) and "Traceback" not in error
