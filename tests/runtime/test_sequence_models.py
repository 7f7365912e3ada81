"""rt.compile on whole models: recurrent, convolutional, attention. One native call, equal to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from tests.support.networks.sequence_models import (
    Attention,
    Branches,
    DepthwiseSeparable,
    LastTimeStep,
    Step,
    Tcn,
    randomised,
)

Make = Callable[[int], tuple[object, ...]]


def encoder(**options: object) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)  # type: ignore[arg-type]
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def states(batch: int) -> tuple[Tensor, Tensor]:
    return torch.rand(2, batch, 17) - 0.5, torch.randn(2, batch, 17)


OPEN: dict[str, tuple[Callable[[], nn.Module], Make]] = {
    "lstm": (LastTimeStep, lambda b: (torch.randn(b, 6, 10),)),
    "gru": (lambda: LastTimeStep(nn.GRU), lambda b: (torch.randn(b, 6, 10),)),
    "bidirectional": (lambda: LastTimeStep(both=True), lambda b: (torch.randn(b, 6, 10),)),
    "tcn": (Tcn, lambda b: (torch.randn(b, 5, 40),)),
    "tcn-all": (lambda: Tcn(newest=False), lambda b: (torch.randn(b, 5, 40),)),
    "ds-cnn": (DepthwiseSeparable, lambda b: (torch.randn(b, 1, 49, 10),)),
    "encoder": (encoder, lambda b: (torch.randn(b, 7, 32),)),
    "encoder-prenorm": (lambda: encoder(norm_first=True, activation="gelu"), lambda b: (torch.randn(b, 7, 32),)),
    "attention": (Attention, lambda b: (torch.randn(b, 7, 24),)),
    "attention-fused": (lambda: Attention(fused=True), lambda b: (torch.randn(b, 7, 24),)),
    "branches": (Branches, lambda b: (torch.randint(0, 9, (b, 20)), torch.randn(b, 5))),
}
FIXED: dict[str, tuple[Callable[[], nn.Module], Make]] = {
    "time-first": (lambda: LastTimeStep(batch_first=False), lambda b: (torch.randn(6, b, 10),)),
    "step": (Step, lambda b: (torch.randn(1, b, 10), states(b))),
}


def error(got: object, want: object) -> float:
    pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(want))
    return max(float((g - w).square().mean().sqrt() / w.square().mean().sqrt()) for g, w in pairs)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", OPEN)
def test_open_batch(name: str, scheme: str) -> None:
    """Compiled for one sample, called with others; nothing falls back to PyTorch."""
    torch.manual_seed(1)
    make, inputs = OPEN[name]
    model = randomised(make())
    calibration = [inputs(32) for _ in range(2)] if scheme == "w8a8" else None
    fast = rt.compile(model, inputs(1), scheme, calibration=calibration)
    assert [line.kernel for line in fast.explain_lines(measure=False) if line.kernel == "torch"] == []
    assert fast._direct is not None
    for batch in (1, 3, 40):
        given = inputs(batch)
        with torch.no_grad():
            want = model(*given)
        got = fast(*given)
        assert got.shape == want.shape
        assert error(got, want) < (1e-5 if scheme == "float32" else 0.06)
        out = torch.full_like(want, float("nan"))
        assert torch.equal(fast.run(*given, out=out), got)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("batch", [1, 3])
def test_fixed_batch(name: str, scheme: str, batch: int) -> None:
    torch.manual_seed(2)
    make, inputs = FIXED[name]
    model = make().eval()
    calibration = [inputs(batch) for _ in range(16)] if scheme == "w8a8" else None
    fast = rt.compile(model, inputs(batch), scheme, calibration=calibration)
    assert fast._direct is not None
    given = inputs(batch)
    with torch.no_grad():
        want = model(*given)
    got = fast(*given)
    assert pytree.tree_structure(got) == pytree.tree_structure(want)
    assert error(got, want) < (1e-5 if scheme == "float32" else 0.06)
    out = pytree.tree_map(lambda t: torch.full_like(t, float("nan")), want)
    step = fast.bind(*given, out=out)
    step()
    assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(out), pytree.tree_leaves(got)))


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_an_image_is_returned(channels: int, scheme: str) -> None:
    """A convolution whose result goes straight to the caller, channels first."""
    model = nn.Conv2d(channels, 6, 3).eval()
    fast = rt.compile(model, torch.randn(1, channels, 7, 9), scheme, calibration=[torch.randn(32, channels, 7, 9)])
    x = torch.randn(3, channels, 7, 9)
    with torch.no_grad():
        assert error(fast(x), model(x)) < (1e-5 if scheme == "float32" else 0.06)


class Padded(nn.Module):
    def __init__(self, layer: nn.Module, pad: tuple[int, ...], mode: str) -> None:
        super().__init__()
        self.layer, self.pad, self.mode = layer, pad, mode

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.pad(x, self.pad, mode=self.mode))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("make", "shape", "pad"),
    [
        (lambda: nn.Identity(), (12,), (3, 4)),
        (lambda: nn.Linear(12, 3), (4, 9), (1, 2)),
        (lambda: nn.Conv1d(1, 8, 5, 2), (1, 33), (0, 6)),
        (lambda: nn.Conv1d(5, 8, 5), (5, 33), (2, 3)),
        (lambda: nn.Conv2d(3, 4, 3), (3, 7, 9), (1, 2, 3, 0)),
        (lambda: nn.Conv2d(16, 4, 3), (16, 7, 9), (1, 2, 3, 0)),
    ],
)
def test_padding_that_repeats_elements(
    make: Callable[[], nn.Module], shape: tuple[int, ...], pad: tuple[int, ...], mode: str
) -> None:
    model = Padded(make(), pad, mode).eval()
    fast = rt.compile(model, torch.randn(1, *shape))
    assert fast._direct is not None
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            want = model(x)
        got = fast(x)
        assert got.shape == want.shape
        assert error(got, want) < 1e-5


def test_dead_positions_are_not_computed() -> None:
    """A head that reads one time step: the last convolution computes one, the one before it the three it reads."""
    fast = rt.compile(Tcn().eval(), torch.randn(1, 5, 40))
    convs = [s for s in fast._program.stages if s.op == "conv"]
    assert [s.outputs[0].steps for s in convs][-2:] == [3, 1]
    full = rt.compile(Tcn(newest=False).eval(), torch.randn(1, 5, 40))
    assert {s.outputs[0].steps for s in full._program.stages if s.op == "conv"} == {40}


@pytest.mark.parametrize("size", [31, 32])
def test_an_image_that_is_read_nearly_whole_is_not_copied(size: int) -> None:
    """A stride of two leaves the last row and column of an even image unread."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 4, 1), nn.Flatten()).eval()
    x = torch.randn(1, 3, size, size)
    fast = rt.compile(model, (x,))
    assert "rearrange" not in str(fast.explain())
    with torch.no_grad():
        assert error(fast(x), model(x)) < 1e-5


@pytest.mark.parametrize("name", ["lstm", "tcn", "ds-cnn", "encoder"])
def test_a_nan_stays_in_its_sample(name: str) -> None:
    torch.manual_seed(3)
    make, inputs = OPEN[name]
    fast = rt.compile(randomised(make()), inputs(1), "w8a8", calibration=[inputs(32)])
    given = inputs(3)
    want = fast(*given)
    given[0][1].view(-1)[-1] = float("nan")
    got = fast(*given)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], want[[0, 2]])


def test_an_index_out_of_range_is_refused_before_anything_is_written() -> None:
    make, inputs = OPEN["branches"]
    fast = rt.compile(make().eval(), inputs(1))
    tokens, numbers = inputs(2)
    out = torch.full((2, 2), 7.0)
    for bad in (9, -1):
        tokens[1, 3] = bad
        with pytest.raises(rt.FormatError, match=str(bad)):
            fast.run(tokens, numbers, out=out)
    assert (out == 7).all()


def test_wrong_state_shapes_and_nesting() -> None:
    make, inputs = FIXED["step"]
    x, (h, c) = inputs(1)
    fast = rt.compile(make().eval(), (x, (h, c)))
    with pytest.raises(rt.ShapeError, match="input 1"):
        fast(x, (h[:1], c))
    with pytest.raises(rt.ShapeError, match=r"Nest them|arguments"):
        fast(x, h, c)


def test_calibration_of_another_shape_than_a_fixed_model() -> None:
    make, inputs = FIXED["time-first"]
    with pytest.raises(rt.ShapeError, match="calibration"):
        rt.compile(make().eval(), inputs(1), "w8a8", calibration=[inputs(2)])


def test_a_window_shorter_than_the_kernel() -> None:
    with pytest.raises((rt.RtaccelError, RuntimeError), match=r"[Kk]ernel"):
        rt.compile(nn.Conv1d(4, 4, 9).eval(), torch.randn(1, 4, 5))


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_states_of_an_open_batch_are_returned_layers_first(
    layer: type[nn.LSTM] | type[nn.GRU], layers: int, scheme: str
) -> None:
    """They lie samples first in the plan; torch gives [layers * directions, batch, hidden]."""
    torch.manual_seed(11)
    model = layer(10, 6, layers, batch_first=True, bidirectional=True).eval()
    fast = rt.compile(model, torch.randn(1, 9, 10), scheme, calibration=[torch.randn(32, 9, 10)])
    for batch in (1, 2, 2 * layers, 5):  # as many samples as rows of state, too: the shape alone would not tell
        x = torch.randn(batch, 9, 10)
        with torch.no_grad():
            want = model(x)
        got = fast(x)
        assert [t.shape for t in pytree.tree_leaves(got)] == [t.shape for t in pytree.tree_leaves(want)]
        assert error(got, want) < (1e-5 if scheme == "float32" else 0.1)  # a state is few and small numbers


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(x, x, x)


class StepWithHead(nn.Module):
    """What a control loop calls: one recurrent layer, its state passed in and out, a linear head."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM], layers: int, batch_first: bool) -> None:
        super().__init__()
        self.cell = cell(10, 24, layers, batch_first=batch_first)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor, state: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, object]:
        y, state = self.cell(x, state)
        return self.head(y), state


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_a_step_with_its_state_is_one_native_call(
    cell: type[nn.GRU] | type[nn.LSTM], layers: int, batch: int, batch_first: bool
) -> None:
    """A state of one layer and one sample looks as if its layers were samples; it must not cost the bound call."""
    model = randomised(StepWithHead(cell, layers, batch_first)).requires_grad_(False)
    h, c = torch.randn(2, layers, batch, 24).unbind()
    state = h if cell is nn.GRU else (h, c)
    x = torch.randn(batch, 1, 10) if batch_first else torch.randn(1, batch, 10)
    fast = rt.compile(model, (x, state))
    assert "one call" in fast.explain(measure=False).splitlines()[0]
    want = model(x, state)
    assert error(fast(x, state), want) < 1e-6
    out = pytree.tree_map(lambda t: torch.full_like(t, torch.nan), want)
    fast.bind(x, state, out=out)()
    assert error(out, want) < 1e-6


def test_attention_that_returns_its_weights() -> None:
    """torch then joins samples and heads in one dimension, and scales it by a constant."""
    model = SelfAttention().eval()
    for batch in (1, 3):
        x = torch.randn(batch, 7, 32)
        fast = rt.compile(model, x)
        with torch.no_grad():
            assert error(fast(x), model(x)) < 1e-5


class Masked(nn.Module):
    """torch's own transformer with a mask, and nothing said of what it is; kind: of the mask."""

    def __init__(self, part: str, kind: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"dim_feedforward": 24, "dropout": 0.0, "batch_first": True}
        self.part, self.kind = part, kind
        self.body: Any = {
            "encoder": lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 4, **options), 2, enable_nested_tensor=False
            ),
            "decoder": lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, **options), 2),
            "transformer": lambda: nn.Transformer(16, 4, 1, 1, **options),
        }[part]()
        self.register_buffer("stored", nn.Transformer.generate_square_subsequent_mask(7))

    def mask(self, x: Tensor) -> Tensor:
        made = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        band = torch.where((torch.ones_like(made).tril(-3) > 0), -torch.inf, made)
        return {"made": made, "stored": self.stored, "truths": made == -torch.inf, "band": band}[self.kind]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = self.mask(x)
        if self.part == "encoder":
            return self.body(x, mask=mask)
        if self.part == "decoder":
            return self.body(x, y, tgt_mask=mask, memory_mask=mask)
        return self.body(x, y, src_mask=mask, tgt_mask=mask, memory_mask=mask)


@pytest.mark.parametrize("kind", ["made", "stored", "truths", "band"])
@pytest.mark.parametrize("part", ["encoder", "decoder", "transformer"])
def test_masks_leave_the_batch_open(part: str, kind: str) -> None:
    """torch asks the numbers of a mask whether it is causal. The answer changes nothing, so the plan does not ask."""
    torch.manual_seed(3)
    model = Masked(part, kind).eval()
    fast = rt.compile(model, (torch.randn(2, 7, 16), torch.randn(2, 7, 16)), strict=True)
    for rows in (1, 2, 5):
        given = torch.randn(rows, 7, 16), torch.randn(rows, 7, 16)
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-4, atol=1e-5)
