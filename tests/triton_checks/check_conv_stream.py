"""Streams of causal convolutions on a persistent kernel, interpreted or on the GPU: from the program of rt.stream, through the
plan, the native mailbox and the kernel, to the same bits as the stream on the CPU.
Started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels.conv.triton import persistent, persistent_config
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks.streams import other_weights
from tests.triton_checks.support.interpreted_device import in_its_place

require("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # what lies in a ring before the first time step means nothing
    yield from in_its_place(monkeypatch, persistent, lambda operands: operands.rings[:-2].fill_(0x55AA1234))


class Tcn(nn.Module):
    """residual: of the block's input after its activation, as in a TCN, or before ("inner")."""

    def __init__(self, widths: tuple[int, ...], taps: int, residual: str = "", head: nn.Module | None = None,
                 act: Callable[[Tensor], Tensor] = F.relu, groups: int = 1) -> None:  # fmt: skip
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(c, n, taps, dilation=2**i, groups=groups) for i, (c, n) in enumerate(pairwise(widths))
        )
        self.residual, self.head, self.act = residual, head, act

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            y = conv(F.pad(x, ((conv.kernel_size[0] - 1) * conv.dilation[0], 0)))  # type: ignore[operator,index]
            alike = y.shape == x.shape
            y = self.act(y + x if alike and self.residual == "inner" else y)
            x = x + y if alike and self.residual == "outer" else y
        newest = x[:, :, -1]
        return newest if self.head is None else self.head(newest)


def stayed(model: nn.Module, features: int) -> tuple[StreamModel, StreamModel]:
    """(the stream on a persistent kernel, the same on the CPU)."""
    calibration = [torch.randn(8, features, 40)]
    plain = rt.stream(model.eval(), torch.randn(1, features), scheme="w8a8", calibration=calibration)
    options = Options(1, title="Tcn, streamed", states=plain._options.states, mode="persistent")
    return StreamModel(plain._program, options, ("x_t",)), plain


class Shortcut(Tcn):
    """The classic block: relu(relu(conv) + a convolution of one tap)."""

    def __init__(self, features: int) -> None:
        super().__init__((features, 14), 3)
        self.short = nn.Conv1d(features, 14, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.convs[0](F.pad(x, (2, 0))))
        return F.relu(y + self.short(x))[:, :, -1]


@pytest.mark.parametrize(("make", "features"), [
    (lambda: Tcn((6, 16, 16), 3, "", nn.Linear(16, 2)), 6),
    (lambda: Tcn((5, 21, 21), 2, "outer", nn.Sequential(nn.Linear(21, 9), nn.ReLU(), nn.Linear(9, 3))), 5),
    (lambda: Tcn((17, 17, 17), 2, "inner"), 17),
    (lambda: Tcn((1, 40), 5, "", None, lambda t: F.leaky_relu(t, 0.1)), 1),
    (lambda: Shortcut(3), 3),
    (lambda: Tcn((6, 12), 3, groups=3), 6),
    (lambda: Tcn((7, 7), 2, "inner", groups=7), 7),
], ids=["plain", "outer", "inner", "one-channel", "shortcut", "groups", "depthwise"])  # fmt: skip
def test_a_stream_that_stays(make: Callable[[], Tcn], features: int) -> None:
    """Longer than every ring; a NaN reaches as long as the rings reach, and a reset ends it."""
    check_stream(make, features)


@pytest.mark.parametrize("held", [2, 1], ids=["newest", "nothing"])
def test_a_network_that_the_registers_do_not_hold(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads all taps again but the newest, or every one, and gives the same bits. held: registers for tiles of one each."""
    monkeypatch.setattr(persistent_config, "REGISTERS", 2)
    monkeypatch.setattr(persistent_config, "STREAMED_REGISTERS", held)
    form = persistent_config.select_config(persistent_config.example((6, 16, 16), 3, 2))
    assert isinstance(form, persistent_config.KernelConfig)
    assert sum(form.held) == held - 1
    assert form.spare
    check_stream(lambda: Tcn((6, 16), 3, "", nn.Linear(16, 2)), 6)


def check_stream(make: Callable[[], Tcn], features: int) -> None:
    live, plain = stayed(make(), features)
    assert plain._options.states is not None
    receptive_field = plain._options.states.memory
    for time_step in range(2 * receptive_field + 6):
        x = torch.randn(1, features) * 2
        if time_step in (1, receptive_field + 4):
            x[0, -1] = float("nan") if time_step == 1 else float("-inf")
        if time_step == 3:
            live.reset()
            plain.reset()
        got, want = live.step(x), plain.step(x)
        assert torch.equal(got.nan_to_num(77.0), want.nan_to_num(77.0)), time_step
        assert bool(got.isnan().all()) == (
            time_step in (1, 2) or receptive_field + 4 <= time_step <= 2 * receptive_field + 4
        ), time_step
    y = torch.empty_like(got)
    live.bind(x, out=y)()
    assert torch.equal(y, plain.step(x))
    assert "B of rings" in live.explain() and "one persistent kernel: it runs" in live.explain()
    live.close()


@pytest.mark.parametrize("groups", [1, 3], ids=["plain", "groups"])
def test_its_past_goes_on(groups: int, tmp_path: Path) -> None:
    """Saved before the rings are full, behind that and behind a NaN: on the same kernel, on another one, on the CPU, and from
    there back. A reset before it is saved is kept, and other bytes change nothing."""
    torch.manual_seed(3)
    live, plain = stayed(Tcn((6, 12, 12), 3, "outer", nn.Linear(12, 2), groups=groups), 6)
    other = StreamModel(live._program, live._options, ("x_t",))
    assert plain._options.states is not None
    reach = plain._options.states.memory

    def same(count: int, *streams: StreamModel) -> None:
        for _ in range(count):
            x = torch.randn(1, 6) * 2
            want = plain.step(x)
            for stream in streams:
                assert torch.equal(stream.step(x).nan_to_num(77.0), want.nan_to_num(77.0))

    for steps in (0, 2, reach, reach + 7):
        same(steps, live)
        past = live.state_dict()["_extra_state"]
        assert past.numel() == plain.state_dict()["_extra_state"].numel()
        other.load_state_dict(live.state_dict())
        same(reach + 2, live, other)
        other.load_stream(0, plain.save_stream(0))
        plain.load_stream(0, live.save_stream(0))
        same(1, live, other)
    bad = torch.full((1, 6), float("nan"))
    for stream in (plain, live):
        stream.step(bad)
    same(2, live)
    loaded = rt.load(rt.save(live, tmp_path / "live.rta", states=True))
    other.load_state_dict(plain.state_dict())
    for _ in range(reach + 2):
        x = torch.randn(1, 6)
        want = plain.step(x).nan_to_num(77.0)
        assert torch.equal(torch.from_numpy(loaded.step(x.numpy())).nan_to_num(77.0), want)
        assert torch.equal(live.step(x).nan_to_num(77.0), want)
        assert torch.equal(other.step(x).nan_to_num(77.0), want)
    live.suspend()
    same(3, live)
    for wrong in (b"1234", bytes(len(live.save_stream(0)) - 8) + (-1).to_bytes(8, "little", signed=True)):
        with pytest.raises(rt.FormatError, match="load_stream"):
            live.load_stream(0, wrong)
    same(2, live)
    for stream in (plain, live):
        stream.reset()
    other.load_state_dict(live.state_dict())
    same(4, live, other)
    live.close()
    other.close()


def test_a_smooth_activation_is_within_a_step() -> None:
    """tanh may round to the next int8 number. A step of the first layer is at most 2 / 254; the second makes of it its sum of
    |weights|, and rounds again; the head its sum of |weights|. 2 % for the rounding of weights."""
    model = Tcn((4, 12, 12), 3, "", nn.Linear(12, 2), torch.tanh)
    assert isinstance(model.head, nn.Linear)
    gains = [float(w.detach().abs().flatten(1).sum(1).max()) for w in (model.convs[1].weight, model.head.weight)]  # type: ignore[union-attr,operator]
    step = 2 / 254
    live, plain = stayed(model, 4)
    for _ in range(8):
        x = torch.randn(1, 4)
        torch.testing.assert_close(live.step(x), plain.step(x), atol=1.02 * (step * gains[0] + step) * gains[1], rtol=0)
    live.close()


@pytest.mark.parametrize(("make", "said"), [
    (lambda: Tcn((8, 8), 3, head=nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1))), "consists of convolutions"),
], ids=["softmax"])  # fmt: skip
def test_what_cannot_stay(make: Callable[[], Tcn], said: str) -> None:
    with pytest.raises(UnsupportedProblem, match=said):
        stayed(make(), 8)


def test_two_outputs_cannot_stay() -> None:
    class Two(Tcn):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return y, y * 2.0 if self.head is None else self.head(y)

    with pytest.raises(UnsupportedProblem, match="2 outputs"):
        stayed(Two((8, 8), 3), 8)


def test_the_form_of_a_network() -> None:
    stages = persistent_config.example((6, 16, 16, 16), 3, 2)
    form = persistent_config.select_config(stages)
    assert isinstance(form, persistent_config.KernelConfig)
    assert (form.memory, form.rows, form.num_warps) == (14, (0, 4, 0, 8, 0, 16, 0, 0), 4)
    assert form.rings[-1] == 4 * 4 + 8 * 4 + 16 * 4
    large = persistent_config.select_config(persistent_config.example((128,) * 4, 8, 2))
    assert isinstance(large, persistent_config.KernelConfig)
    assert (large.whole, large.num_warps, set(large.held)) == (False, 16, {0, 1})
    too_large = persistent_config.select_config(persistent_config.example((8, 256, 256), 5, 2))
    assert isinstance(too_large, str)
    assert "threads, when padded, not 32" in too_large


@pytest.mark.parametrize(("residual", "whole"), [("", True), ("inner", True), ("", False), ("inner", False)])
def test_other_weights_while_it_runs(residual: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swaps and rollbacks between time steps, with a reset in one message, and a restart: the bits of the CPU's stream, whose
    past goes on. Where not all weights stay, what was summed for the next time step is summed again."""
    if not whole:
        monkeypatch.setattr(persistent_config, "REGISTERS", 2)
        monkeypatch.setattr(persistent_config, "STREAMED_REGISTERS", 2)
    live, plain = stayed(Tcn((16, 16), 3, residual, nn.Linear(16, 2)), 16)
    assert live._plan()._network.config.whole == whole
    states = [other_weights(plain, seed) for seed in (1, 2, 3)]
    given: list[Callable[[StreamModel], Any]] = [
        lambda m: None, lambda m: m.swap(states[0]), lambda m: None, lambda m: m.rollback(), lambda m: m.rollback(),
        lambda m: (m.swap(states[1]), m.reset()), lambda m: (m.swap(states[2]), m.rollback()),
        lambda m: (m.swap(states[0]), m.swap(states[2])), lambda m: None,
    ]  # fmt: skip
    kernel = None
    for index, what in enumerate(given):
        what(live)
        what(plain)
        x = torch.randn(1, 16)
        assert torch.equal(live.step(x), plain.step(x)), index
        assert not live.swap_pending
        kernel = kernel or live._plan()._kernel._running
        assert live._plan()._kernel._running is kernel  # the one that was started at first
    live.suspend()  # a new kernel begins with the set that was used last, and goes on
    x = torch.randn(1, 16)
    assert torch.equal(live.step(x), plain.step(x))
    live.close()
