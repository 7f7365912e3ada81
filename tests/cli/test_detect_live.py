"""`rtaccel detect --live`: the plot, a file that grows, output that is no terminal."""

from __future__ import annotations

import itertools
import math
import re
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from rtaccel.cli._detect import braille, live, table
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError
from rtaccel.online import Records


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """(column, row) of each dot, rows from the top."""
    found = set()
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            bits = ord(character) - 0x2800
            for i, pair in enumerate(braille.DOTS):
                for side, bit in enumerate(pair):
                    if bits & bit:
                        found.add((2 * column + side, 4 * row + i))
    return found


def test_a_line_goes_through_its_values() -> None:
    width, height = 5, 3
    values = np.random.default_rng().normal(size=10)
    found = dots(braille.lines(values, width, height))
    level = np.rint(11 - (values - values.min()) / (values.max() - values.min()) * 11).astype(int)
    expected = {(0, level[0])}
    for i in range(1, 10):
        low, high = sorted((level[i - 1], level[i]))
        expected |= {(i, d) for d in range(low, high + 1)}
    assert found == expected


def test_missing_constant_and_few_values() -> None:
    assert dots(braille.lines([], 4, 2)) == set()
    assert dots(braille.lines([math.nan] * 3, 4, 2)) == set()
    assert dots(braille.lines([5.0], 4, 2)) == {(7, 7)}  # the newest on the right
    assert dots(braille.lines([1.0, math.nan, 0.0], 4, 1)) == {(5, 0), (7, 3)}
    assert len(braille.lines([1.0] * 100, 4, 2)) == 2


def csv_of(path: Path, values: np.ndarray) -> Path:
    rows = "".join(f"{1.7e9 + 60 * i:.0f},{v!r}\n" for i, v in enumerate(values.tolist()))
    path.write_text("time,value\n" + rows)
    return path


def test_without_a_terminal_each_alert_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(size=200)
    values[150] = 30.0
    assert main(["detect", str(csv_of(tmp_path / "a.csv", values)), "--live"]) == 0
    said = capsys.readouterr().out
    expected = int((Records().score_series(values, 1.7e9 + 60 * np.arange(200)) >= 1).sum())
    assert len(re.findall(r"  score \d", said)) == expected > 0
    assert "  30  score" in said and "beyond the range so far" in said  # then the report


def test_values_are_scored_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is of the scores that were shown, and the same as without --live."""
    values = np.random.default_rng(3).normal(size=300).cumsum()
    path, whole = csv_of(tmp_path / "a.csv", values), tmp_path / "whole.csv"
    assert main(["detect", str(path), "--scores", str(whole)]) == 0
    calls = {"score_one": 0, "score_series": 0}
    for name in calls:

        def counted(self: Records, *given: object, kept: object = getattr(Records, name), name: str = name) -> object:
            calls[name] += 1
            return kept(self, *given)  # type: ignore[operator]

        monkeypatch.setattr(Records, name, counted)
    seen = tmp_path / "live.csv"
    assert main(["detect", str(path), "--live", "--scores", str(seen)]) == 0
    assert calls == {"score_one": 300, "score_series": 3}  # each rule alone, for the reasons
    assert seen.read_text() == whole.read_text()


def test_rows_that_are_appended(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=90)
    path = csv_of(tmp_path / "a.csv", values[:60])
    known = table.read(path)
    rest = [f"{1.7e9 + 60 * i:.0f},{v!r}\n" for i, v in enumerate(values.tolist())][60:]

    def write() -> None:
        with path.open("a") as file:
            for i, line in enumerate(rest):
                cut = len(line) // 2 if i % 3 == 0 else len(line)  # a line in two pieces
                for piece in (line[:cut], line[cut:]):
                    file.write(piece)
                    file.flush()
                    time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    found = list(itertools.islice(live.appended(path, known), 30))
    writer.join()
    np.testing.assert_array_equal([v for _, _, v in found], values[60:])
    assert [s for _, s, _ in found] == [1.7e9 + 60 * i for i in range(60, 90)]


def test_appended_rows_across_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """What a whole file may show, a file that grows may show too: the hour that comes twice, and empty lines, which count."""
    start = datetime(2025, 10, 25, 22, tzinfo=timezone.utc)
    zone = [timezone(timedelta(hours=2 if i < 180 else 1)) for i in range(300)]
    lines = [f"{(start + timedelta(minutes=i)).astimezone(zone[i]).isoformat()},{i % 7}\n" for i in range(300)]
    whole, path = tmp_path / "whole.csv", tmp_path / "grows.csv"
    whole.write_text("timestamp,value\n" + "".join(lines))
    wanted = table.read(whole)
    for known_rows in (60, 180, 200):
        path.write_text("timestamp,value\n" + "".join(lines[:known_rows]))
        known = table.read(path)
        path.write_text("timestamp,value\n" + "".join(lines[:100]) + "\n" + "".join(lines[100:]) + "1999-01-01,1\n")
        rows = live.appended(path, known)
        found = list(itertools.islice(rows, 300 - known_rows))
        assert wanted.seconds is not None
        np.testing.assert_array_equal([s for _, s, _ in found], wanted.seconds[known_rows:])
        assert [s for s, _, _ in found] == wanted.stamps[known_rows:]
        with pytest.raises(FormatError, match="row 303 before the one above"):
            next(rows)


@pytest.mark.parametrize("line", ["1.8e9,1,2\n", "1.8e9,word\n", "5,1.0\n", "yesterday,1.0\n"])
def test_an_appended_row_that_is_wrong(line: str, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", np.arange(50.0))
    known = table.read(path)
    with path.open("a") as file:
        file.write(line)
    with pytest.raises(FormatError, match="row 52"):
        next(live.appended(path, known))


def test_the_picture_marks_alerts() -> None:
    pytest.importorskip("rich")
    series = live.Series(Records())
    for i, value in enumerate(np.random.default_rng(2).normal(size=80).tolist()):
        series.add(str(i), None, 40.0 if i == 70 else value)
    text = live.drawn(series, "pressure", 60)
    assert "80 values" in text.plain and "40  score" in text.plain
    assert any(span.style == "bold red" for span in text.spans)
    assert len(text.plain.splitlines()) <= 2 + live.HEIGHT + live.SHOWN_ALERTS
