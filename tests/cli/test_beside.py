"""Options that say something beside another one alone are refused without it, and have their defaults where they are left out."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from rtaccel.cli._common import beside
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bench softmax/* --rounds 30", "--rounds without --against"),
        ("bench softmax/* --processes 3", "--processes without --against"),
        ("bench softmax/* --list --threshold 5", "--threshold without --against"),
        ("detect series.csv --rows-per-second 0", "--rows-per-second without --live or --follow"),
        ("serve model.rta --v2 --replicas 1:4", "--replicas without --ray"),
        ("serve model.rta --v2 --ray-address auto", "--ray-address without --ray"),
        ("serve model.rta --ray --shared-memory-bytes 4096", "--shared-memory-bytes without --shared-memory"),
        ("serve model.rta --v2 --shared-memory 0 --shared-memory-bytes 4096", "without --shared-memory"),
    ],
)
def test_alone(words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("series.csv").write_text("time,value\n0,1\n1,2\n")
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["series.csv"]


def test_settle() -> None:
    args = argparse.Namespace(live=False, follow=True, speed=None, wide_rows=7)
    beside.settle("op", args, "live follow", speed=2.5, wide_rows=1)
    assert (args.speed, args.wide_rows) == (2.5, 7)
    args = argparse.Namespace(live=False, follow=False, speed=None, wide_rows=None)
    beside.settle("op", args, "live follow", speed=2.5, wide_rows=1)
    assert (args.speed, args.wide_rows) == (2.5, 1)
    args.speed, args.wide_rows = None, 0
    with pytest.raises(FormatError, match="--wide-rows without --live or --follow"):
        beside.settle("op", args, "live follow", speed=2.5, wide_rows=1)


def test_one_or_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "model.rta", "--v2", "--no-grpc", "--grpc-port", "9000"])
    assert "--grpc-port" in capsys.readouterr().err
