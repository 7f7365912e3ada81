"""`rtaccel detect`: what it finds, how it reads files, and a sentence for each file that it cannot read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from rtaccel.cli._detect.find import find
from rtaccel.cli._detect.table import parse_time, read
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError
from rtaccel.online import Records

THRESHOLDS = {"range": 0.005, "season": 800.0, "jump": 8000.0}


def stamp(i: int) -> str:
    return str(np.datetime64("2024-03-01T00:00:00") + np.timedelta64(300 * i, "s"))


def series(n: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.sin(np.arange(n) / 10) + 0.1 * rng.normal(size=n)
    values[n - 50] = 9.0
    return values


def written(path: Path, values: np.ndarray, head: str = "timestamp,value") -> Path:
    path.write_text(head + "\n" + "".join(f"{stamp(i)},{v!r}\n" for i, v in enumerate(values.tolist())))
    return path


def test_finds_the_spike_and_writes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.csv", series())
    page, scores = tmp_path / "a.html", tmp_path / "s.csv"
    assert main(["detect", str(file), "--json", "--html", str(page), "--scores", str(scores)]) == 0
    found = json.loads(capsys.readouterr().out)
    spike = next(e for e in found["events"] if e["value"] == 9.0)
    assert (spike["row"], spike["time"], spike["rule"]) == (252, stamp(250), "range")
    rows = list(csv.DictReader(scores.open()))
    expected = Records().score_series(series(), 1709251200.0 + 300 * np.arange(300))
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected, rtol=1e-5, atol=1e-12)
    assert [row["alert"] == "1" for row in rows] == list(expected >= 1)
    assert sum(e["alerts"] for e in found["events"]) == found["alerts"] == int((expected >= 1).sum())
    source = page.read_text()
    assert "<svg" in source
    assert stamp(250) in source
    assert main(["detect", str(file)]) == 0
    said = capsys.readouterr().out
    assert "beyond the range so far" in said
    assert stamp(250) in said


def test_missing_values_and_gaps_are_counted(tmp_path: Path) -> None:
    lines = [
        f"{stamp(i if i < 100 else i + 40)},{'' if i in (50, 51) else 'NaN' if i == 60 else i % 7}" for i in range(200)
    ]
    (tmp_path / "a.csv").write_text("time,temperature\n" + "\n".join(lines))
    table = read(tmp_path / "a.csv")
    assert (table.missing, table.gaps, table.value_name, table.step) == (3, 1, "temperature", 300.0)
    scores = find(table, THRESHOLDS).scores
    assert np.isnan(scores[[50, 51, 60]]).all()
    assert np.isfinite(np.delete(scores, [50, 51, 60])).all()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_columns(tmp_path: Path, separator: str) -> None:
    rows = [separator.join(["name", str(i), stamp(i), str(i % 5)]) for i in range(60)]
    (tmp_path / "a.csv").write_text(
        "﻿" + separator.join(["label", "id", "at", "value"]) + "\n" + "\n".join(rows), "utf-8"
    )
    table = read(tmp_path / "a.csv")
    assert (table.time_name, table.value_name) == ("at", "value")
    assert read(tmp_path / "a.csv", value="id").values[59] == 59
    with pytest.raises(FormatError, match="no column 'other'"):
        read(tmp_path / "a.csv", time="other")


def test_without_times(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("load\n" + "\n".join(str(v) for v in series().tolist()))
    table = read(tmp_path / "a.csv")
    assert table.seconds is None
    np.testing.assert_array_equal(find(table, THRESHOLDS).scores, Records().score_series(series()))


def test_times() -> None:
    day = 1709251200.0
    for text, seconds in (
        ("2024-03-01", day),
        ("2024-03-01T00:00:01Z", day + 1),
        ("2024-03-01 00:00:01.25", day + 1.25),
        ("2024-03-01T00:00:01.5+05:00", day + 1.5),  # the clock that it shows
        ("1709251200", day),
    ):
        assert parse_time(text) == seconds
    assert parse_time("yesterday") is None


GOOD = "".join(f"{stamp(i)},{i}\n" for i in range(60))

BAD = {
    "empty": ("", "nothing in its first line", "Write the names first"),
    "head alone": ("time,value\n", "no row below its head", "Write the values"),
    "no head": ("1,2\n3,4\n", "numbers in its first line", "Add a head"),
    "ragged": (f"time,value\n{GOOD}{stamp(60)},1,2\n", "3 cells in row 62", "drop that row"),
    "text": (f"time,value\n{GOOD}{stamp(60)},high\n", "'high' as value in row 62", "Clear the cell"),
    "comma": (f"time;value\n{GOOD.replace(',', ';')}{stamp(60)};1,5\n", "'1,5' as value", "with a point"),
    "no numbers": ("time,value_\n" + f"{stamp(1)},a\n" * 50, "no column of numbers", "--value NAME"),
    "two": ("time,a,b\n" + f"{stamp(1)},1,2\n" * 50, "several columns of numbers (a, b)", "--value a"),
    "twice": ("time,a,a\n" + f"{stamp(1)},1,2\n" * 50, "two columns 'a'", "Rename"),
    "bad time": (f"time,value\n{GOOD}soon,1\n", "'soon' as time in row 62", "Convert the column"),
    "backwards": (f"time,value\n{GOOD}{stamp(3)},1\n", "a time in row 62 before", "Sort it by time"),
    "ms": ("time,value\n" + "".join(f"{1709251200000 + i},1\n" for i in range(60)), "seconds since 1970", "by 1000"),
    "short": ("time,value\n" + "".join(f"{stamp(i)},1\n" for i in range(40)), "40 values", "40 are warm-up"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_the_next_step(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, got, step = BAD[case]
    (tmp_path / "a.csv").write_text(text)
    assert main(["detect", str(tmp_path / "a.csv")]) == 2
    said = capsys.readouterr().err
    assert got in said
    assert step in said
    assert len(said.splitlines()) == 1


def test_bad_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.csv", series())
    before = file.read_bytes()
    (tmp_path / "b.csv").write_bytes(b"time,value\n\xff\xfe\n")
    for words in (
        [str(tmp_path / "none.csv")],
        [str(tmp_path)],
        [str(tmp_path / "b.csv")],
        [str(file), "--html", str(tmp_path / "none" / "a.html")],
        [str(file), "--scores", str(file)],
        [str(file), "--range", "-1"],
        [str(file), "--jump", str(math.nan)],
    ):
        assert main(["detect", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert file.read_bytes() == before


def test_rows_are_counted_as_the_file_has_them(tmp_path: Path) -> None:
    """Empty lines count, and only line ends end a row."""
    path = tmp_path / "a.csv"
    rows = [f"{i},{i % 7},a\u2028b" for i in range(60)]
    path.write_text("time,value,note\n" + "\n\n".join(rows) + "\n60,abc,x\n")
    with pytest.raises(FormatError, match="'abc' as value in row 121"):
        read(path)
    path.write_text("time,value,note\n" + "\n".join(rows) + "\n60,1_000,x\n")
    with pytest.raises(FormatError, match="'1_000'"):
        read(path)
    path.write_text("time,value,note\n" + "\n".join(rows) + "\n60,-1e308,x\n")
    found = read(path)
    assert found.missing == 1 and len(found.values) == 61


def test_clocks_that_are_set_back(tmp_path: Path) -> None:
    """Times that say how far they are ahead of UTC are in order by the moment they name; without it, by what they show."""
    path = tmp_path / "a.csv"
    times = [f"2024-10-27T02:{m:02}:00+02:00" for m in range(60)] + [
        f"2024-10-27T02:{m:02}:00+01:00" for m in range(60)
    ]
    path.write_text("time,value\n" + "\n".join(f"{t},{i % 5}" for i, t in enumerate(times)))
    found = read(path)
    assert found.seconds is not None and (found.seconds[:60] == found.seconds[60:]).all()
    path.write_text("time,value\n" + "\n".join(f"{t[:19]},{i % 5}" for i, t in enumerate(times)))
    with pytest.raises(FormatError, match="row 62 before"):
        read(path)
    path.write_text("time,value\n" + "\n".join(f"{t},{i % 5}" for i, t in enumerate(reversed(times))))
    with pytest.raises(FormatError, match="row 3 before"):
        read(path)
