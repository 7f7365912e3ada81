"""A wake word with its trained weights (MLPerf Tiny): as many right answers of 45 in int8 as in float32.

The benchmark's own int8 network has 41 right, as the float32 network has. In a recording of 10 s the word is heard
where it is said, and nowhere else.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from examples.voice.networks import Word
from tests.support.networks.log_mel import RATE, STRIDE, WINDOW, log_mel
from tests.support.networks.real_networks import folder, recording, wake_word, wake_word_samples

DATA = folder("mlperf_tiny_sww", "sww_weights.npz")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="no mlperf_tiny_sww in the test data folder (set RTACCEL_TEST_DATA to have it)"
)
RIGHT = 41
MOMENTS = 30
SCHEMES = {
    "static-absmax": rt.W8A8("static", "absmax"),
    "static-percentile": rt.W8A8("static", "percentile"),
    "static-mse": rt.W8A8("static", "mse"),
    "dynamic": rt.W8A8("dynamic"),
}


@pytest.fixture(scope="module")
def model() -> Word:
    return wake_word(DATA)


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor]:
    return wake_word_samples(DATA)


def right(answers: Tensor, classes: Tensor) -> int:
    return int((answers.argmax(1) == classes).sum())


def calibration_of(scheme: rt.W8A8, x: Tensor) -> list[Tensor] | None:
    return [x] if scheme.activation == "static" else None


def test_float32(model: Word, samples: tuple[Tensor, Tensor]) -> None:
    x, classes = samples
    fast = rt.compile(model, x[:1])
    assert fast._direct is not None  # one native call
    with torch.no_grad():
        want = model(x)
    got = fast(x)
    assert right(want, classes) == right(got, classes) == RIGHT
    assert (got - want).abs().max() <= 1e-5


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_int8(model: Word, samples: tuple[Tensor, Tensor], scheme: rt.W8A8) -> None:
    x, classes = samples
    fast = rt.compile(model, x[:1], scheme, calibration=calibration_of(scheme, x))
    assert fast._direct is not None
    assert fast.weight_bytes < 60_000  # of 187,500 in float32
    got = fast(x)
    assert right(got, classes) >= RIGHT
    with torch.no_grad():
        want = model(x)
    assert torch.equal(got.argmax(1), want.argmax(1))
    assert (got - want).abs().max() <= 0.05  # what the benchmark's own int8 network differs by
    assert torch.equal(torch.cat([fast(one[None]) for one in x]), got)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_streamed_frame_by_frame(model: Word, samples: tuple[Tensor, Tensor], scheme: str) -> None:
    """One frame in, the probabilities out: after 30 frames what the window of 30 gives, whatever came before."""
    x, classes = samples
    live = rt.stream(model, x[:, :, 0], scheme, calibration=[x] if scheme == "w8a8" else None)
    for frame in torch.cat([x.flip(0)[:, :, :7], x], 2).unbind(2):
        got = live.step(frame.contiguous())
    with torch.no_grad():
        want = model(x)
    assert right(got, classes) >= RIGHT
    assert (got - want).abs().max() <= (1e-5 if scheme == "float32" else 0.05)


def heard(probability: Tensor, threshold: float = 0.5, gap: float = 0.5) -> list[float]:
    """Seconds at which the word is first heard; what follows within `gap` is the same word."""
    seconds = (torch.nonzero(probability > threshold)[:, 0] * STRIDE + WINDOW) / RATE
    return [float(t) for i, t in enumerate(seconds) if i == 0 or t - seconds[i - 1] > gap]


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_the_word_is_heard_where_it_is_said(model: Word, samples: tuple[Tensor, Tensor], scheme: str) -> None:
    frames = log_mel(recording(DATA / "short_wav_easy10s.wav"))
    said = json.loads((DATA / "sww_short_test.json").read_text())[0]["detection_windows"]
    live = rt.stream(model, frames[:1], scheme, calibration=[samples[0]] if scheme == "w8a8" else None)
    probability = torch.cat([live.step(frame) for frame in frames.split(1)])[:, 0]
    probability[: MOMENTS - 1] = 0  # its window is not full
    times = heard(probability)
    assert len(times) == len(said) == 3
    for time, (start, end) in zip(times, said):
        assert start < time < end + 0.25  # the end of the word, and a few frames to be sure
