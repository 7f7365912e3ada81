"""Voice activity with trained weights (silero-vad, 16 kHz) on a minute of speech: the package's own segments.

The packaged network is the reference, and the package's own function makes segments of probabilities.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.real_networks import Vad, folder, packaged_vad, recording, vad, vad_chunks, vad_package
from tests.vad_halves import INT8_CELL, Halves, calibration_of

DATA, PACKAGE = folder("vad_wav", "test.wav"), vad_package()
pytestmark = [
    pytest.mark.skipif(DATA is None, reason="no vad_wav in the test data folder (set RTACCEL_TEST_DATA to have it)"),
    pytest.mark.skipif(PACKAGE is None, reason="needs the package silero-vad"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning"),
]
SEGMENTS = 19
CALIBRATION_CHUNKS = 600
"""Of 1875: what is judged below is for two thirds speech that calibration has not seen."""

Model = Callable[[Tensor, int], Tensor]


@pytest.fixture(scope="module")
def audio() -> Tensor:
    return recording(DATA / "test.wav")


@pytest.fixture(scope="module")
def package() -> Path:
    assert PACKAGE is not None
    return PACKAGE


@pytest.fixture(scope="module")
def model(package: Path) -> Vad:
    return vad(package)


@pytest.fixture(scope="module")
def segments_of() -> Callable[[Any, Tensor], list[dict[str, int]]]:
    """The package's own function. Importing it sets the number of torch's threads."""
    threads = torch.get_num_threads()
    found = importlib.import_module("silero_vad.utils_vad").get_speech_timestamps
    torch.set_num_threads(threads)
    return lambda model, audio: found(audio, model, sampling_rate=16000)


class Listening:
    """A network with its state in and out as the package's segmenting calls a model. Keeps the probabilities."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
        self.network = network
        self.reset_states()

    def reset_states(self) -> None:
        self.h, self.c, self.context = torch.zeros(1, 128), torch.zeros(1, 128), torch.zeros(64)
        self.probabilities: list[float] = []

    def __call__(self, chunk: Tensor, sampling_rate: int) -> Tensor:
        assert sampling_rate == 16000
        with torch.no_grad():
            p, self.h, self.c = self.network(torch.cat([self.context, chunk])[None], self.h, self.c)
        self.context = chunk[-64:]
        self.probabilities.append(float(p))
        return p


def stacked(network: nn.Module) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    def call(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, state = network(x, torch.stack([h, c]))
        return p, state[0], state[1]

    return call


@pytest.fixture(scope="module")
def wanted(package: Path, audio: Tensor, segments_of: Any) -> tuple[list[dict[str, int]], Tensor]:
    """Segments and probabilities of the packaged network."""
    own = Listening(stacked(packaged_vad(package)))
    segments = segments_of(own, audio)
    assert len(segments) == SEGMENTS
    return segments, torch.tensor(own.probabilities)


def test_rebuilt_network_is_the_packaged_one(model: Vad, package: Path, audio: Tensor) -> None:
    x, h, c = vad_chunks(audio)[::25], torch.rand(75, 128) - 0.5, torch.randn(75, 128)
    with torch.no_grad():
        want, state = packaged_vad(package)(x, torch.stack([h, c]))
        got = model(x, h, c)
    for g, w in zip(got, (want, *state)):
        assert (g - w).abs().max() <= 1e-5


def test_rebuilt_network_is_the_packaged_onnx(model: Vad, package: Path, audio: Tensor) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        str(package / "silero_vad_16k_op15.onnx"), options, providers=["CPUExecutionProvider"]
    )
    h = c = torch.zeros(1, 128)
    for x in vad_chunks(audio)[:300].split(1):
        feed = {"input": x.numpy(), "state": torch.stack([h, c]).numpy(), "sr": torch.tensor(16000).numpy()}
        want, state = (torch.from_numpy(a) for a in session.run(None, feed))
        with torch.no_grad():
            p, h, c = model(x, h, c)
        assert (p - want).abs().max() <= 1e-5
        assert (torch.stack([h, c]) - state).abs().max() <= 1e-4


def test_compiled_whole(model: Vad, audio: Tensor, wanted: Any, segments_of: Any) -> None:
    segments, probabilities = wanted
    fast = rt.compile(model, (vad_chunks(audio)[:1], torch.zeros(1, 128), torch.zeros(1, 128)))
    left = [line.name for line in fast.explain_lines(measure=False) if line.kernel == "torch"]
    assert set(left) <= {"hypot.default"}  # the magnitude at most; not padding, convolutions, the cell or the head
    listening = Listening(fast)
    assert segments_of(listening, audio) == segments
    assert (torch.tensor(listening.probabilities) - probabilities).abs().max() <= 1e-5


def test_compiled_as_two_native_calls(model: Vad, audio: Tensor, wanted: Any, segments_of: Any) -> None:
    segments, probabilities = wanted
    halves = Halves(model)
    assert halves.first._direct is not None and halves.second._direct is not None
    heard: list[float] = []

    class Heard:
        reset_states = halves.reset_states

        def __call__(self, chunk: Tensor, sampling_rate: int) -> Tensor:
            heard.append(float(halves(chunk, sampling_rate)))
            return halves.probability

    assert segments_of(Heard(), audio) == segments
    assert (torch.tensor(heard) - probabilities).abs().max() <= 1e-5


def test_int8_cell_hears_the_same_segments(model: Vad, audio: Tensor, wanted: Any, segments_of: Any) -> None:
    segments, _ = wanted
    calibration = calibration_of(model, vad_chunks(audio)[:CALIBRATION_CHUNKS])
    halves = Halves(model, INT8_CELL, calibration)
    assert halves.second._direct is not None
    assert halves.second.weight_bytes < 0.55 * sum(4 * p.numel() for p in model.decision.parameters())
    assert segments_of(halves, audio) == segments


def test_int8_everywhere_is_not_what_is_claimed(model: Vad, audio: Tensor, wanted: Any) -> None:
    """Why the convolutions over the spectrum stay float32: in int8 the probabilities are far off."""
    _, probabilities = wanted
    chunks = vad_chunks(audio)

    def heard(scheme: Any) -> Tensor:
        halves = Halves(model, scheme, calibration_of(model, chunks[:CALIBRATION_CHUNKS]))
        return torch.tensor([float(halves(x[64:])) for x in chunks])

    whole, part = (float((heard(s) - probabilities).square().mean().sqrt()) for s in ("w8a8", INT8_CELL))
    assert part < 0.01 < whole
