"""Files that are empty, ragged, cut short, or of other columns: a sentence with the file and what to do, from every reader."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examples._shared import audio
from examples._shared.data import reads
from examples._shared.outcome import Missing
from examples.anomaly_sound import networks as sound
from examples.anomaly_stream import nab
from examples.humanoid_policy import policy
from examples.remaining_life import engines
from examples.telemetry import channels
from examples.voice import networks as voice

ROWS = "timestamp,value\n2015-01-01 00:00:00,1.0\n2015-01-01 00:05:00,2.0\n"
WINDOWS = {"a/b.csv": [["2015-01-01 00:00:00", "2015-01-01 00:05:00"]]}
ENGINE = ",".join(str(i) for i in range(1, 27))


def series(text: str, windows: str = "") -> Callable[[Path], object]:
    def made(folder: Path) -> object:
        (folder / "windows.json").write_text(windows or json.dumps(WINDOWS))
        (folder / "a__b.csv").write_text(text)
        return nab.read(folder)

    return made


def fleet(text: str, remaining: str = "5\n") -> Callable[[Path], object]:
    def made(folder: Path) -> object:
        for name in ("train_FD001", "test_FD001"):
            (folder / f"{name}.csv").write_text(text)
        if remaining:
            (folder / "RUL_FD001.txt").write_text(remaining)
        return engines.read(folder)

    return made


def labels(text: str) -> Callable[[Path], object]:
    def made(folder: Path) -> object:
        (folder / channels.LABELS).write_text(text)
        (folder / "A.npz").write_bytes(b"PK")
        return channels.read(folder)

    return made


def cut(reader: Callable[[Path], object], content: bytes = b"PK\x03\x04 and no more") -> Callable[[Path], object]:
    def made(folder: Path) -> object:
        (folder / "file").write_bytes(content)
        return reader(folder / "file")

    return made


def recording(rate: int, width: int) -> Callable[[Path], object]:
    def made(folder: Path) -> object:
        with wave.open(str(folder / "a.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(width)
            file.setframerate(rate)
            file.writeframes(bytes(100))
        return audio.recording(folder / "a.wav", 16000)

    return made


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing in a series": (series(""), "no rows"),
    "a head alone": (series("timestamp,value\n"), "no rows"),
    "a row with a cell more": (series(ROWS + "2015-01-01 00:10:00,3,4\n"), "row 4 has other cells"),
    "a row with a cell less": (series(ROWS + "2015-01-01 00:10:00\n"), "row 4 has other cells"),
    "other names": (series(ROWS.replace("timestamp", "time")), "no 'timestamp'"),
    "a word": (series(ROWS + "2015-01-01 00:10:00,word\n"), "word"),
    "no JSON": (series(ROWS, "{"), "windows.json is not"),
    "no series": (lambda folder: (folder / "windows.json").write_text(json.dumps(WINDOWS)) and nab.read(folder), "no .*a__b.csv"),
    "no engines": (fleet("head\n"), "train_FD001.csv is not a table.*0 rows"),
    "engines with a column less": (fleet(f"head\n{ENGINE[:-3]}\n"), "25 columns"),
    "engines that are ragged": (fleet(f"head\n{ENGINE}\n1,2,3\n"), "changed from 26 to 3"),
    "an engine with a gap": (fleet(f"head\n{ENGINE}\n{ENGINE[:-2]}nan\n"), "row 2 has a value that is missing"),
    "no truth": (fleet(f"head\n{ENGINE}\n", ""), "no .*RUL_FD001.txt"),
    "labels of another form": (labels('{"A": {"ranges": []}}'), "no 'anomalies'"),
    "labels that are no JSON": (labels("{"), "labels.json is not"),
    "a channel that was cut": (labels('{"A": {"anomalies": []}}'), "A.npz is not"),
    "a wake word that was cut": (cut(voice.word), "wake word"),
    "inputs that were cut": (cut(voice.labelled), "labeled inputs"),
    "a network that was cut": (cut(sound.score), "anomaly detector"),
    "frames that were cut": (cut(sound.published_frames, bytes(4 * 130)), "128 bands"),
    "a policy that was cut": (cut(policy.arrays), "file of arrays"),
    "another rate": (recording(8000, 2), "8000 Hz: convert"),
    "another width": (recording(16000, 1), "8 bits"),
    "a recording of nothing": (cut(lambda file: audio.recording(file, 16000), b""), "ends within its head"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_with_the_file_and_the_next_step(name: str, tmp_path: Path) -> None:
    read, words = CASES[name]
    with pytest.raises(Missing, match=words) as raised:
        read(tmp_path)
    said = str(raised.value)
    assert str(tmp_path) in said and "\n" not in said
    assert said.endswith((".", "Hz.", "Hz")) and ":" in said


def test_whole_files_are_read(tmp_path: Path) -> None:
    (one,) = series(ROWS)(tmp_path)  # type: ignore[attr-defined]
    assert one.windows == [(0, 1)] and one.values.tolist() == [1.0, 2.0]
    found = fleet(f"head\n{ENGINE}\n{ENGINE}\n")(tmp_path)
    assert isinstance(found, engines.Fleet) and found.train[0].shape == (2, 14)


def test_a_mistake_of_a_caller_is_none_of_the_file(tmp_path: Path) -> None:
    @reads("a file")
    def broken(path: Path) -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        broken(tmp_path)


def test_a_recording_that_stops_is_heard_to_its_end(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.arange(500, dtype="<i2").tobytes())
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-301])
    found = audio.recording(tmp_path / "a.wav", 16000)
    np.testing.assert_array_equal(found * 32768, np.arange(349))
