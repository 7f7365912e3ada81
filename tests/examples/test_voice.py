"""The three stages: quality on the recordings with the published figures, and how much each computes. Nothing is timed."""

from __future__ import annotations

import json
import os
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from examples._shared import audio
from examples._shared.outcome import Missing
from examples.voice import many, networks, run
from examples.voice.listen import Lines, Networks, full_words, hear, segments
from examples.voice.networks import CHUNK, HOP, RATE
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    found = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere"))
    if not (found / "mlperf_tiny_sww").exists() or not (found / "vad_wav").exists():
        pytest.skip(f"no mlperf_tiny_sww and vad_wav in {found}: set RTACCEL_TEST_DATA")
    return found


@pytest.fixture(scope="module")
def nets(folder: Path) -> Networks:
    pytest.importorskip("onnx")
    try:
        file = networks.package() / "silero_vad_16k_op15.onnx"
    except Missing as missing:
        pytest.skip(str(missing))
    return Networks(*networks.speech(file), networks.word(folder / "mlperf_tiny_sww" / "sww_weights.npz"))


@pytest.fixture(scope="module")
def talk(folder: Path) -> np.ndarray:
    return audio.recording(folder / "vad_wav" / "test.wav", RATE)


def test_packets_of_any_size_are_the_chunks_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    samples = draw.normal(size=7001).astype(np.float32)
    want = audio.chunks(samples, CHUNK, HOP)
    packets, got, at = audio.Packets(CHUNK, HOP), [], 0
    while at < len(samples):
        size = int(draw.choice([0, 1, 160, 511, 1500]))
        got += [chunk.copy() for chunk in packets.put(samples[at : at + size])]
        at += size
    assert np.array_equal(np.stack(got), want)
    assert np.array_equal(want[3, -HOP:], samples[3 * HOP : 4 * HOP]) and not want[0, : CHUNK - HOP].any()
    assert audio.chunks(samples[:511], CHUNK, HOP).shape == (0, CHUNK)


def test_segments_and_words_are_those_of_the_networks_alone(nets: Networks, folder: Path, talk: np.ndarray) -> None:
    sww = folder / "mlperf_tiny_sww"
    said = json.loads((sww / "sww_short_test.json").read_text())[0]["detection_windows"]
    short = audio.chunks(audio.recording(sww / "short_wav_easy10s.wav", RATE), CHUNK, HOP)
    minute = audio.chunks(talk, CHUNK, HOP)
    three, full = Lines(1, nets), Lines(1, nets, everything=True)
    got, want = hear(three, minute), hear(full, minute)
    parts = segments(got.speech, len(talk))
    assert len(parts) == 19 and parts == segments(want.speech, len(talk))
    assert len(got.words()) <= len(full_words(want))
    ten = hear(three, short)
    assert run.hits(ten.words(), said) == len(ten.words()) == 3  # and nowhere else
    assert ten.shares[1] < 0.55 and ten.shares[2] < 0.25


def test_the_published_words_are_right(nets: Networks, folder: Path) -> None:
    float32, int8 = run.right_words(nets, folder / "mlperf_tiny_sww")
    assert float32 == 41 and int8 >= 41


def test_lines_are_independent_and_their_work_is_counted(nets: Networks, talk: np.ndarray) -> None:
    count, steps = 40, 60
    all_lines, one = Lines(count, nets), Lines(1, nets)
    x, found = torch.empty(1, CHUNK), []
    for chunks in many.calls_of(count, steps, 0.3, many.QUIET_DB, talk, seed=3):
        speech, word = all_lines.step(chunks)
        alone = one.step(x.copy_(chunks[7:8]))
        assert abs(float(speech[7] - alone[0][0])) < 1e-5 and abs(float(word[7] - alone[1][0])) < 1e-5
        found.append(float(speech[7]))
    assert max(found) > 0.5 and min(found) == 0
    gate, looked, words = all_lines.calls / (count * steps)
    assert gate == 1 and 0.2 < looked < 0.45 and words < looked


def test_at_a_tenth_of_talk_a_tenth_is_computed(nets: Networks, talk: np.ndarray) -> None:
    lines = Lines(100, nets)
    for chunks in many.calls_of(100, 80, 0.1, many.QUIET_DB, talk, seed=1):
        lines.step(chunks)
    shares = lines.calls / 8000
    assert shares[1] < 0.16 and shares[2] < 0.15


def test_recordings_that_do_not_fit(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.arange(40, dtype="<i2").tobytes())
    assert len(audio.recording(tmp_path / "a.wav", RATE)) == 20
    with pytest.raises(Missing, match="at 16000 Hz: convert it to 16 bits at 8000 Hz"):
        audio.recording(tmp_path / "a.wav", 8000)
    (tmp_path / "b.wav").write_bytes(b"RIFF....")
    with pytest.raises(Missing, match="no wave file"):
        audio.recording(tmp_path / "b.wav", RATE)
    with pytest.raises(Missing, match="another silero network"):
        networks.check_spectrum(torch.zeros(258, 256), torch.hann_window(256))


def test_a_file_of_ones_own(nets: Networks, folder: Path) -> None:
    wav = folder / "mlperf_tiny_sww" / "short_wav_easy10s.wav"
    done = subprocess.run(
        [*PYTHON, ROOT / "examples/voice/run.py", "--wav", wav], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "The word at 1.41, 4.48, 7.36." in done.stdout


@pytest.mark.parametrize(
    ("option", "words"), [(["--device", "cuda"], "device='cuda'"), (["--data", "/nowhere"], "no sww")]
)
def test_what_is_missing_is_said(option: list[str], words: str) -> None:
    done = subprocess.run(
        [*PYTHON, ROOT / "examples/voice/run.py", *option], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
