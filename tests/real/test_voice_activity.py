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
from torch import Tensor

import rtaccel as rt
from tests.support.networks.real_networks import folder, recording
from tests.support.networks.voice_activity import (
    INT8_CELL,
    Listener,
    Vad,
    calibration_of,
    packaged_vad,
    vad,
    vad_chunks,
    vad_package,
)

DATA, PACKAGE = folder("vad_wav", "test.wav"), vad_package()
pytestmark = [
    pytest.mark.skipif(DATA is None, reason="no vad_wav in the test data folder (set RTACCEL_TEST_DATA to have it)"),
    pytest.mark.skipif(PACKAGE is None, reason="needs the package silero-vad"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning"),
]
SEGMENTS = 19
CALIBRATION_CHUNKS = 600
"""Of 1875: what is judged below is for two thirds speech that calibration has not seen."""


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


class Packaged:
    """The packaged network with its state and context outside, as the segmenting calls a model."""

    def __init__(self, package: Path) -> None:
        self.network = packaged_vad(package)
        self.reset_states()

    def reset_states(self) -> None:
        self.state, self.context = torch.zeros(2, 1, 128), torch.zeros(64)
        self.probabilities: list[float] = []

    def __call__(self, chunk: Tensor, sampling_rate: int) -> Tensor:
        assert sampling_rate == 16000
        with torch.no_grad():
            p, self.state = self.network(torch.cat([self.context, chunk])[None], self.state)
        self.context = chunk[-64:]
        self.probabilities.append(float(p))
        return p


@pytest.fixture(scope="module")
def wanted(package: Path, audio: Tensor, segments_of: Any) -> tuple[list[dict[str, int]], Tensor]:
    """Segments and probabilities of the packaged network."""
    own = Packaged(package)
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


def test_the_packaged_file_compiles_as_it_is(package: Path, audio: Tensor) -> None:
    """The TorchScript file, without the network in Python: all stages native, and the packaged network's results."""
    packaged = packaged_vad(package)
    state = torch.zeros(2, 1, 128)
    fast = rt.compile(packaged, (torch.zeros(1, 576), state), strict=True)
    assert "decoder.rnn" in {line.name for line in fast.explain_lines(measure=False)}
    for x in vad_chunks(audio)[:300].split(1):
        with torch.no_grad():
            want, _ = packaged(x, state)
        p, state = fast(x, state)
        assert (p - want).abs().max() <= 1e-5


def onnx_session(package: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(
        str(package / "silero_vad_16k_op15.onnx"), options, providers=["CPUExecutionProvider"]
    )


def onnx_run(session: Any, x: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
    feed = {"input": x.numpy(), "state": torch.stack([h, c]).numpy(), "sr": torch.tensor(16000).numpy()}
    return [torch.from_numpy(a) for a in session.run(None, feed)]


def assert_one_native_call(listener: Listener) -> None:
    assert listener.compiled._direct is not None
    lines = listener.compiled.explain_lines(measure=False)
    assert lines and not [line.name for line in lines if line.kernel == "torch"]


def heard(listener: Listener, audio: Tensor) -> Tensor:
    return torch.tensor([float(listener(x[64:])) for x in vad_chunks(audio)])


def test_one_native_call_hears_what_the_packaged_network_hears(
    model: Vad, audio: Tensor, wanted: Any, segments_of: Any
) -> None:
    segments, probabilities = wanted
    listener = Listener(model)
    assert_one_native_call(listener)
    assert (heard(listener, audio) - probabilities).abs().max() <= 1e-5
    assert segments_of(listener, audio) == segments  # from `reset_states`, which the package's function calls


def test_compiled_model_is_the_packaged_onnx(model: Vad, package: Path, audio: Tensor) -> None:
    session = onnx_session(package)
    fast = rt.compile(model, (torch.zeros(1, 576), torch.zeros(1, 128), torch.zeros(1, 128)))
    h = c = torch.zeros(1, 128)
    for x in vad_chunks(audio)[:300].split(1):
        want, state = onnx_run(session, x, h, c)
        p, h, c = fast(x, h, c)
        assert (p - want).abs().max() <= 1e-5
        assert (torch.stack([h, c]) - state).abs().max() <= 1e-4


def test_int8_cell_hears_the_same_segments(model: Vad, audio: Tensor, wanted: Any, segments_of: Any) -> None:
    segments, _ = wanted
    listener = Listener(model, INT8_CELL, calibration_of(model, vad_chunks(audio)[:CALIBRATION_CHUNKS]))
    assert_one_native_call(listener)
    int8 = {line.name for line in listener.compiled.explain_lines(measure=False) if "int8[" in line.what}
    assert {"conv4", "cell"} <= int8 and not {"conv1", "conv2", "conv3"} & int8
    assert segments_of(listener, audio) == segments


def test_int8_everywhere_is_not_what_is_claimed(model: Vad, audio: Tensor, wanted: Any) -> None:
    """Why the convolutions over the spectrum stay float32: in int8 the probabilities are far off."""
    _, probabilities = wanted
    calibration = calibration_of(model, vad_chunks(audio)[:CALIBRATION_CHUNKS])

    def error(scheme: Any) -> float:
        return float((heard(Listener(model, scheme, calibration), audio) - probabilities).square().mean().sqrt())

    assert error(INT8_CELL) < 0.01 < error("w8a8")


INT4 = rt.W4A8(rounding="gptq")


@pytest.mark.parametrize(
    "scheme",
    [{"cell": INT4, "head": INT4, "*": "float32"}, {"spectrum": "float32", "conv1": "float32", "*": INT4}],
    ids=["cell-and-head", "all-but-magnitudes"],
)
def test_int4_rounded_for_its_inputs_hears_the_same_segments(
    model: Vad, audio: Tensor, wanted: Any, segments_of: Any, scheme: Any
) -> None:
    """All 19, no edge further off than a chunk. Convolutions are then int8; magnitudes span too much for a scale of their own.

    Which numbers a weight is rounded to depends on the last bits of second moments, which are those of a machine's BLAS: on one
    no edge of the first is off, on another one is.
    """
    chunks = vad_chunks(audio)
    listener = Listener(model, scheme, calibration_of(model, chunks[:CALIBRATION_CHUNKS]))
    found = segments_of(listener, audio)
    assert len(found) == SEGMENTS
    assert all(abs(a[edge] - b[edge]) <= 512 for a, b in zip(found, wanted[0]) for edge in ("start", "end"))


def test_int4_to_the_nearest_is_further_off(model: Vad, audio: Tensor, wanted: Any) -> None:
    """Why: the error of the probabilities halves, and more, by rounding for inputs."""
    chunks = vad_chunks(audio)
    given = calibration_of(model, chunks[:CALIBRATION_CHUNKS])
    errors = []
    for scheme in (rt.W4A8(), INT4):
        listener = Listener(model, {"cell": scheme, "head": scheme, "*": "float32"}, given)
        errors.append(float((heard(listener, audio) - wanted[1]).square().mean().sqrt()))
    assert errors[1] < 0.7 * errors[0]
