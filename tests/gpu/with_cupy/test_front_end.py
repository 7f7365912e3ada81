"""The front end in CuPy of docs/how-to/gpu.md, run as it is there on a stand-in for CuPy: its numbers, on which stream it feeds a
graph, and that nothing waits until somebody looks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.gpu.with_cupy.fake_cupy import FakeCupy, NumpyArray
from tests.support.fake_cuda import FakeCard
from tests.support.fake_device import FakeDevice

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "gpu.md"
ROWS, HOP, FRAME = 4, 127, 254
NUMPYS = ("float32", "asarray", "hanning", "zeros", "concatenate", "abs")


def example() -> str:
    """The code of the page that has a front end."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "class FrontEnd" in block]
    return found


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    made: Any = FakeCupy()
    made.ndarray = NumpyArray
    made.from_dlpack = lambda tensor: tensor.numpy().view(NumpyArray)
    for name in NUMPYS:
        setattr(made, name, made.like_numpy(name))
    made.fft = SimpleNamespace(rfft=made.like_numpy("fft.rfft"))
    tricks = SimpleNamespace(sliding_window_view=made.like_numpy("lib.stride_tricks.sliding_window_view"))
    made.lib = SimpleNamespace(stride_tricks=tricks)
    for name, module in (("cupy", made), ("cupy.lib", made.lib), ("cupy.lib.stride_tricks", tricks)):
        monkeypatch.setitem(sys.modules, name, module)
    return made  # type: ignore[no-any-return]


class Waits:
    """Everything that would wait for work of the GPU, counted."""

    def __init__(self, patch: pytest.MonkeyPatch, cupy: FakeCupy, card: FakeCard, device: FakeDevice) -> None:
        self._cupy, self._device, self._torch = cupy, device, -device.waits  # a capture waits
        for owner, name in (
            (torch.cuda, "synchronize"),
            (torch.cuda.Stream, "synchronize"),
            (torch.cuda.Event, "synchronize"),
        ):
            patch.setattr(owner, name, self._counted, raising=False)
        patch.setattr(type(card.default), "synchronize", self._counted)

    def _counted(self, *_: Any) -> None:
        self._torch += 1

    @property
    def count(self) -> int:
        return self._torch + self._device.waits + sum(line.endswith(" waits") for line in self._cupy.log)


class Setup:
    def __init__(self, patch: pytest.MonkeyPatch, cupy: FakeCupy) -> None:
        self.cupy, self.card, self.device = cupy, FakeCard(), FakeDevice()
        patch.setattr(planned, "device_layer", lambda name: self.device)
        self.net = nn.Sequential(nn.Linear(FRAME // 2 + 1, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
        eager = rt.compile(self.net, torch.randn(ROWS, 128), backend="portable")
        assert isinstance(eager, CompiledModel)
        options = Options(ROWS, "cpu", "portable", 0, "Net", mode="graph")
        self.fast = CompiledModel(eager._program, options, eager._argument_names)
        self.card.install(patch)
        self.card.streams[77] = self.card.stream("of cupy")
        patch.setattr(torch.cuda, "ExternalStream", lambda raw: self.card.streams[raw])
        self.device.on_replay = lambda: cupy.log.append(f"replay on {self.card.current().name}")
        self.waits = Waits(patch, cupy, self.card, self.device)
        generator = np.random.default_rng(0)
        self.taps = generator.standard_normal(31)
        self.samples = generator.standard_normal((5, ROWS * HOP)).astype(np.float32)

    def run(self, code: str) -> dict[str, Any]:
        blocks = [block.view(NumpyArray) for block in self.samples]
        names: dict[str, Any] = {"taps": self.taps, "fast": self.fast, "blocks": blocks}
        exec(code, names)
        return names


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, cupy: FakeCupy) -> Setup:
    return Setup(monkeypatch, cupy)


def test_the_front_end_filters_and_transforms(setup: Setup) -> None:
    """Against a convolution and an STFT of the whole signal at once."""
    front = setup.run(example())["FrontEnd"](setup.taps)
    got = np.concatenate([front(block.view(NumpyArray)) for block in setup.samples])
    signal = np.convolve(setup.samples.ravel(), setup.taps)[: setup.samples.size]
    padded = np.concatenate((np.zeros(FRAME - HOP), signal))
    window = torch.from_numpy(np.hanning(FRAME))
    spectra = torch.stft(torch.from_numpy(padded), FRAME, HOP, window=window, center=False, return_complex=True)
    assert got.shape == (5 * ROWS, FRAME // 2 + 1)
    np.testing.assert_allclose(got, spectra.abs().T.numpy(), rtol=1e-4, atol=1e-3)


def test_nothing_waits_until_somebody_looks(setup: Setup) -> None:
    names = setup.run(example())
    log = setup.cupy.log
    assert log[-1] == "77 waits" and setup.waits.count == 1
    assert log.count("replay on of cupy") == len(
        setup.samples
    )  # each block is one graph, on the stream of the front end
    assert log.index("fft.rfft on 77") < log.index("replay on of cupy")
    front = names["FrontEnd"](setup.taps)
    last = [front(block.view(NumpyArray)) for block in setup.samples][-1]
    with torch.no_grad():
        want = setup.net(torch.from_numpy(np.asarray(last)))
    assert isinstance(names["scores"], NumpyArray)
    np.testing.assert_allclose(names["scores"], want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wait", ["stream.synchronize()", "cupy.cuda.Device().synchronize()", "torch.cuda.synchronize()"]
)
def test_a_wait_is_seen(wait: str, setup: Setup) -> None:
    """The same with a wait inside the loop."""
    line = "        scores = fast(front(block))"
    code = example()
    assert code.count(line) == 1
    setup.run("import torch\n" + code.replace(line, f"        {wait}\n{line}"))
    assert setup.waits.count == 1 + len(setup.samples)


def test_a_bound_call_on_memory_of_the_host_waits(setup: Setup) -> None:
    """So it is no part of such a loop: the count has it."""
    x, y = torch.zeros(ROWS, 128), torch.zeros(ROWS, 3)
    setup.device.host = setup.device.pinned = {x.data_ptr(), y.data_ptr()}
    step = setup.fast.bind(x, out=y)
    before = setup.waits.count
    step()
    assert setup.waits.count == before + 1
