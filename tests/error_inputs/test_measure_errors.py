"""Every one of the error inputs of measuring and of the command line: the exact type or exit code, and the words that matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import rtaccel as rt
from rtaccel.cli.main import main
from tests.error_inputs import cli, measure


def test_there_are_enough_and_each_is_named_once() -> None:
    for cases in (measure.CASES, cli.CASES):
        names = [case[0] for case in cases]
        assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("case", measure.CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_error_input(case: Any) -> None:
    _, call, error, words = case
    with pytest.raises(rt.RtaccelError) as caught:
        call()
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    assert re.search(words, str(caught.value)), str(caught.value)[:500]
    assert caught.value.next_step
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("case", cli.CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_error_on_the_command_line(
    case: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, words, code, said = case
    monkeypatch.chdir(tmp_path)
    for name, text in cli.FILES.items():
        Path(name).write_text(text)
    try:
        ended: Any = main([word.format(nets=tmp_path / "nets.py", folder=tmp_path) for word in words])
    except SystemExit as stopped:  # argparse
        ended = stopped.code
    error = capsys.readouterr().err
    assert ended == code, error
    assert said in error, error
    assert "rtaccel/cli/" not in error
    assert "Traceback" not in error or code == 3
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == set(cli.FILES)
