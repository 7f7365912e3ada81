"""The whole path from samples to score: its front against formulas in float64, and the published scores. Nothing is timed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rtaccel as rt
from examples.anomaly_sound import networks, peers, run
from examples.anomaly_sound.networks import BANDS, HOP, STACK, WINDOW, LogMel, Score
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    found = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "mlperf_tiny_ad01"
    if not found.exists():
        pytest.skip(f"no {found}: set RTACCEL_TEST_DATA")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Score:
    return networks.score(folder / run.FILES[0])


@pytest.fixture(scope="module")
def frames(folder: Path) -> Tensor:
    return networks.published_frames(folder / run.CLIP)


def test_bands_are_slaneys() -> None:
    """Triangles of area 1 in Hz, whose middles are 200 / 3 Hz apart up to 1 kHz and in a constant ratio above."""
    bands, step = networks.mel_bands(), 16000 / WINDOW
    wide = bands[:, -30:]
    np.testing.assert_allclose(wide.sum(0) * step, 1, atol=0.01)
    middle = bands.argmax(0) * step
    assert np.all(np.diff(middle) >= 0) and middle[-1] < 8000
    ratio = middle[-1] / middle[-31]
    assert ratio ** (1 / 30) == pytest.approx(
        np.exp(np.log(6.4) / 27 * (15 + 27 * np.log(8) / np.log(6.4)) / 129), rel=0.01
    )


def test_front_is_the_formula() -> None:
    x = torch.randn(5, WINDOW) * 0.1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(x.double().numpy() * window)) ** 2 @ networks.mel_bands()
    want = 10 * np.log10(power + np.finfo(np.float32).eps)
    fast = rt.compile(LogMel().eval(), (x,), strict=True)
    np.testing.assert_allclose(fast(x).numpy(), want, atol=2e-3)
    front = peers.FrontEnd()
    for row in x.numpy():
        got = front(row)
    np.testing.assert_allclose(got.reshape(STACK, BANDS), want, atol=2e-3)


def test_published_scores_from_frames(model: Score, frames: Tensor) -> None:
    windows = [frames.T[None].contiguous()]
    float32 = run.scores(rt.stream(model, frames[:1]), frames)
    assert len(float32) == 196
    assert float32.mean() == pytest.approx(9.4913, abs=1e-3)
    int8 = run.scores(rt.stream(model, frames[:1], run.INT8, calibration=windows), frames)
    assert 9.0 < int8.mean() <= 10.3
    assert np.abs(int8 - float32).max() < 0.1 * float32.max()


def test_network_for_peers_is_the_same(model: Score, frames: Tensor) -> None:
    windows = frames.unfold(0, STACK, 1).transpose(1, 2).reshape(-1, STACK * BANDS)
    with torch.no_grad():
        error = float((run.Net(model)(windows) - windows).square().mean())
    assert error == pytest.approx(9.4913, abs=1e-3)


def test_samples_to_score_is_one_native_plan(model: Score, frames: Tensor) -> None:
    audio = networks.rebuilt_audio(frames[:60], 150)
    samples = audio.unfold(0, WINDOW, HOP)
    with torch.no_grad():
        near = LogMel()(samples)
        want = np.array([float(model(near.T[None, :, i : i + STACK])) for i in range(len(near) - STACK + 1)])
    assert (near - frames[:60]).abs().mean() < 1.0  # dB
    for name, (_, whole) in run.streams(model, frames, audio).items():
        assert whole.native[0] == whole.native[1]
        assert not [line.name for line in whole.explain_lines(measure=False) if line.kernel == "torch"]
        got = run.scores(whole, samples)
        np.testing.assert_allclose(got, want, rtol=1e-3 if name == "float32" else 0.15)
        knocking = run.scores(whole, run.faulty(audio).unfold(0, WINDOW, HOP))
        assert knocking[40:].mean() > 1.5 * got[40:].mean()


def test_artefact_takes_samples(model: Score, tmp_path: Path) -> None:
    x = torch.randn(12, 1, WINDOW) * 0.1
    live = rt.stream(model, x[0], front=LogMel().eval())
    rt.save(live, tmp_path / "sound.rta")
    loaded = rt.load(tmp_path / "sound.rta")
    for sample in x:
        assert torch.equal(torch.as_tensor(loaded.step(sample)), live.step(sample))


@pytest.mark.parametrize(
    ("option", "words"), [(["--data", "/nowhere"], "no ad01_weights.npz"), (["--device", "cuda"], "device='cuda'")]
)
def test_what_is_missing_is_said(folder: Path, option: list[str], words: str) -> None:
    if "cuda" in option and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [*PYTHON, ROOT / "examples/anomaly_sound/run.py", *option], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
