"""rt.stream of causal transformers: keys and values of the past in the plan, against the model over the window so far."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.causal import LONGEST, CausalTransformer, Style

STREAMS = 3


def newest(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = model(x)
    return y[:, -1] if y.dim() == 3 else y


def close(got: Tensor, want: Tensor) -> None:
    assert float((got - want).abs().max()) < 2e-5 * max(1.0, float(want.abs().max()))


def made(style: Style, seed: int = 0) -> CausalTransformer:
    torch.manual_seed(seed)
    return CausalTransformer(style).eval()


@pytest.mark.parametrize("seed", range(64))
def test_every_step_equals_the_window_so_far(seed: int) -> None:
    """Transformers of every style, to the last position that there is."""
    style = Style.random(seed)
    context = (17, 24, LONGEST)[seed % 3]
    model = made(style, seed)
    live = rt.stream(model, torch.randn(STREAMS, 5), context=context)
    x = torch.randn(STREAMS, context, 5)
    for t in range(context):
        got = live.step(x[:, t].contiguous())
        if t < 6 or t % 5 == 0 or t == context - 1:
            close(got, newest(model, x[:, : t + 1]))
    assert "verified against windows of" in live.explain(verbose=False, measure=False)


@pytest.mark.parametrize("window", [1, 3, 16, 17, 31])
@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
def test_a_window_needs_no_context_and_never_ends(window: int, attention: str) -> None:
    model = made(Style(attention, window=window, bias="alibi", layers=1))
    live = rt.stream(model, torch.randn(STREAMS, 5))
    x = torch.randn(STREAMS, 130, 5)
    for t in range(130):
        got = live.step(x[:, t].contiguous())
    close(got, newest(model, x))
    assert live.state_bytes < 4 * STREAMS * (2 * 8 * 64 + 64) * 2


def test_behind_its_context_attention_sees_the_newest_time_steps() -> None:
    model = made(Style(layers=1))
    live = rt.stream(model, torch.randn(STREAMS, 5), context=12)
    x = torch.randn(STREAMS, 40, 5)
    for t in range(40):
        close(live.step(x[:, t].contiguous()), newest(model, x[:, max(0, t - 11) : t + 1]))


class Encoder(nn.Module):
    """torch's own encoder, masked."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first)
        self.first, self.encoder = nn.Linear(5, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.time = int(batch_first)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[self.time])
        return self.encoder(self.first(x), mask=mask, is_causal=True).select(self.time, -1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_encoder_of_torch(batch_first: bool) -> None:
    torch.manual_seed(1)
    model = Encoder(batch_first).eval()
    live = rt.stream(model, torch.randn(2, 5), context=20)
    x = torch.randn(2, 20, 5)
    for t in range(20):
        got = live.step(x[:, t].contiguous())
    close(got, newest(model, x if batch_first else x.transpose(0, 1)))


def test_indices() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Embedding(11, 8), Block(8)).eval()
    live = rt.stream(model, torch.tensor([1, 2]), context=15)
    tokens = torch.randint(0, 11, (2, 15))
    for t in range(15):
        got = live.step(tokens[:, t].contiguous())
    close(got, newest(model, tokens))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return x + self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0]


def test_a_table_of_positions_ends() -> None:
    """Nothing has moved then, in any stream; and a stream that is reset goes on."""
    for positions in ("learned", "rotary"):
        model = made(Style(positions=positions))
        live = rt.stream(model, torch.randn(STREAMS, 5), context=9)
        x = torch.randn(STREAMS, 9, 5)
        for t in range(4):
            live.step(x[:, t].contiguous())
        live.reset([1])
        for t in range(4, 9):
            live.step(x[:, t].contiguous())
        kept = live.state_dict()
        with pytest.raises(rt.FormatError, match=r"step 9, of 0\.\.8; reset"):
            live.step(torch.randn(STREAMS, 5))
        with pytest.raises(rt.FormatError, match="step 9"):
            live.step(torch.randn(2, 5), streams=[1, 2])
        assert torch.equal(live.state_dict()["_extra_state"], kept["_extra_state"])
        more = torch.randn(1, 5)
        got = live.step(more, streams=[1])
        close(got, newest(model, torch.cat([x[1:2, 4:], more[:, None]], 1)))
        live.reset([0, 2])
        live.step(torch.randn(STREAMS, 5))


def test_streams_go_their_own_ways() -> None:
    model = made(Style("matmul", "rotary", "rms", 4, 2, 6))
    live = rt.stream(model, torch.randn(5, 5), context=20)
    past: list[list[Tensor]] = [[] for _ in range(5)]
    generator = torch.Generator().manual_seed(3)
    for turn in range(60):
        some = torch.randperm(5, generator=generator)[: 1 + turn % 4]
        if turn % 9 == 8:
            live.reset(int(some[0]))
            past[int(some[0])] = []
        some = some[torch.tensor([len(past[s]) < 20 for s in some], dtype=torch.bool)]
        x = torch.randn(len(some), 5, generator=generator)
        y = live.step(x, streams=some)
        for row, stream in enumerate(some.tolist()):
            past[stream].append(x[row])
            close(y[row], newest(model, torch.stack(past[stream])[None])[0])
    moved = live.save_stream(2)
    live.load_stream(4, moved)
    if len(past[2]) < 20:
        y = live.step(x[:1].expand(2, 5).contiguous(), streams=[2, 4])
        assert torch.equal(y[0], y[1])


def test_a_nan_leaves_with_its_time_step() -> None:
    live = rt.stream(made(Style(layers=1)), torch.randn(2, 5), context=7)
    alone = rt.stream(made(Style(layers=1)), torch.randn(1, 5), context=7)
    x = torch.randn(2, 30, 5)
    x[1, 10, 2] = float("nan")
    for t in range(30):
        y, want = live.step(x[:, t].contiguous()), alone.step(x[:1, t].contiguous())
        close(y[:1], want)
        assert bool(y[1].isnan().any()) == (10 <= t < 17)


@pytest.mark.parametrize("scheme", ["w8a8", rt.W4A8()])
def test_int8(scheme: rt.W4A8 | str) -> None:
    model = made(Style("sdpa", "learned", heads=4, kv=4, head_dim=8), 6)
    windows = [torch.randn(24, 16, 5) for _ in range(2)]
    live = rt.stream(model, torch.randn(2, 5), scheme, calibration=windows, context=16)
    x = torch.randn(2, 16, 5)
    for t in range(16):
        got = live.step(x[:, t].contiguous())
    want = newest(model, x)
    assert float((got - want).square().mean().sqrt()) < (0.06 if scheme == "w8a8" else 0.25) * float(
        want.square().mean().sqrt()
    )


def test_artifact_and_state_dict(tmp_path: Path) -> None:
    model = made(Style("einsum", "interleaved", "handwritten", 3, 1, 6, window=5))
    live = rt.stream(model, torch.randn(2, 5), context=24)
    other = rt.stream(model, torch.randn(2, 5), context=24)
    rt.save(live, tmp_path / "causal.rta")
    x = torch.randn(2, 24, 5)
    for t in range(9):
        live.step(x[:, t].contiguous())
    other.load_state_dict(live.state_dict())
    loaded = rt.load(tmp_path / "causal.rta")
    for t in range(9):
        loaded(x[:, t].numpy().copy())
    for t in range(9, 24):
        step = x[:, t].contiguous()
        want = live.step(step)
        assert torch.equal(other.step(step), want)
        assert torch.equal(torch.as_tensor(loaded(step.numpy())), want)
    with pytest.raises(rt.RtaccelError, match="reset"):
        loaded(x[:, 0].numpy().copy())


class Refused(nn.Module):
    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        self.mask, self.qkv = mask, nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = None if self.mask is None else self.mask[: x.shape[1], : x.shape[1]]
        return nn.functional.scaled_dot_product_attention(q, k, v, mask)[:, -1]


CAUSAL = torch.zeros(67, 67).masked_fill(torch.ones(67, 67, dtype=torch.bool).triu(1), float("-inf"))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (None, "time steps still to come"),
        (torch.randn(67, 67), "time steps still to come"),
        (CAUSAL + torch.randn(67), "by the age of a key alone"),
        (CAUSAL.clone().masked_fill(torch.arange(67) == 0, float("-inf")), "by the age of a key alone"),
    ],
)
def test_other_masks_are_refused(mask: Tensor | None, says: str) -> None:
    with pytest.raises(rt.UnsupportedProblem, match=says):
        rt.stream(Refused(mask).eval(), torch.randn(1, 6), context=40)


def test_what_needs_a_context_says_so() -> None:
    needed = {
        "looks back without an end: give": Style(),
        "a table of positions: give": Style(positions="sines", window=4),
        "differ from time step to time step: give": Style(positions="rotary", window=4),
    }
    for says, style in needed.items():
        with pytest.raises(rt.UnsupportedProblem, match=says):
            rt.stream(made(style), torch.randn(1, 5), calibration=None)
    with pytest.raises(rt.UnsupportedProblem, match="windows of 20 time steps, where context is 16"):
        rt.stream(made(Style()), torch.randn(1, 5), "w8a8", calibration=[torch.randn(8, 20, 5)], context=16)
    for bad in (0, 1, True, 2.5, "8"):
        with pytest.raises(rt.ShapeError, match="context"):
            rt.stream(made(Style()), torch.randn(1, 5), context=bad)  # type: ignore[arg-type]


def test_in_a_batcher() -> None:
    """Samples that come one by one, in an order of their own for each stream."""
    model = made(Style("sdpa", "sines", heads=4, kv=2, head_dim=6), 3)
    live = rt.stream(model, torch.randn(6, 5), context=20)
    x = torch.randn(6, 20, 5)
    answers = dict[tuple[int, int], Tensor]()
    with rt.StreamBatcher(live, deadline_us=2000) as batcher:
        for t in range(20):
            order = torch.randperm(6, generator=torch.Generator().manual_seed(t)).tolist()
            tickets = {stream: batcher.put(stream, x[stream, t].contiguous()) for stream in order}
            for stream, ticket in tickets.items():
                y, status, _ = ticket.result(60)
                assert status in ("ok", "late"), status
                answers[stream, t] = torch.as_tensor(y).clone().reshape(-1)
    for stream in range(6):
        for t in (0, 1, 7, 19):
            close(answers[stream, t], newest(model, x[stream : stream + 1, : t + 1])[0])


def test_in_a_loop() -> None:
    """Warm runs of the loop leave no step behind: after some cycles the newest result is that of as many steps."""
    model = made(Style("matmul", "sines", heads=2, kv=2, head_dim=8), 4)
    live = rt.stream(model, torch.randn(1, 5), context=1000)
    observed, action = rt.Latest((1, 5)), rt.Latest((1, 3))
    x = torch.randn(1, 5)
    observed.put(x)
    options = {"period_us": 2000, "deadline_us": 2000, "max_age_us": 1e9, "on_old": "step", "on_miss": "late"}
    with rt.Loop(live, observed, action, **options) as loop:
        while loop.stats().cycles < 12:
            time.sleep(0.002)
    stats, sample = loop.stats(), action.get()
    steps = sample.seq
    assert 12 <= steps <= stats.cycles, stats
    close(torch.tensor(sample.value.tolist()).reshape(1, 3), newest(model, x[:, None].expand(1, steps, 5).contiguous()))
