"""rt.stream of models over samples: transforms, strided convolutions and pooling, of which a step sees a chunk at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import rtaccel as rt

STREAMS, STEPS = 2, 19


class Spectrum(nn.Module):
    """Samples [batch, samples] to log energies of bands, [batch, frames, bands]; a frame ends where its chunk ends."""

    def __init__(self, size: int, hop: int, bands: int, padded: bool = True) -> None:
        super().__init__()
        self.size, self.hop, self.before = size, hop, size - hop if padded else 0
        self.register_buffer("window", torch.hann_window(size))
        self.bands = nn.Linear(size // 2 + 1, bands)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stft(
            pad(x, (self.before, 0)), self.size, self.hop, window=self.window, center=False, return_complex=True
        )
        return torch.log(self.bands(z.abs().square().transpose(1, 2)).abs() + 0.1)


class Heard(nn.Module):
    """A spectrum, a recurrent layer, and a head that reads its newest time step."""

    def __init__(self, size: int, hop: int, memory: type[nn.Module] | None = nn.GRU, padded: bool = True) -> None:
        super().__init__()
        self.spectrum = Spectrum(size, hop, 7, padded)
        self.memory = memory(7, 5, batch_first=True) if memory is not None else None
        self.head = nn.Linear(5 if memory is not None else 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spectrum(x)
        if self.memory is not None:
            x, _ = self.memory(x)
        return self.head(x[:, -1])


class Down(nn.Module):
    """Strided convolutions and pooling over [batch, 1, samples], drawn at random: hop samples become one time step, or a few."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.layers, self.before = nn.ModuleList(), list[int]()
        channels, self.hop = 1, 1
        for number in range(rng.randint(1, 4)):
            stride, made = rng.choice((1, 1, 2, 3, 5) if number else (2, 3, 5)), rng.choice((3, 4, 8))
            self.hop *= stride
            kind = rng.choice(
                ("conv", "conv", "grouped", "residual", "avg", "max") if number else ("conv", "avg", "max")
            )
            if kind in ("avg", "max"):
                self.layers.append((nn.AvgPool1d if kind == "avg" else nn.MaxPool1d)(stride, stride))
                self.before.append(0)
                continue
            taps, dilation = rng.randint(stride, stride + 4), rng.choice((1, 1, 2))
            if kind == "residual":
                self.layers.append(Residual(channels, taps, dilation))
                self.before.append(0)
                self.hop //= stride
                continue
            groups = channels if kind == "grouped" else 1
            made = channels * 2 if kind == "grouped" else made
            self.layers.append(nn.Conv1d(channels, made, taps, stride, dilation=dilation, groups=groups))
            self.before.append((taps - 1) * dilation + 1 - stride)
            self.layers.append(rng.choice((nn.ReLU, nn.Tanh, nn.ELU))())
            self.before.append(0)
            channels = made
        self.hop *= rng.choice((1, 1, 2, 4))  # time steps of several rows at the end
        self.memory = rng.choice((nn.GRU, nn.LSTM))(channels, 6, batch_first=True) if rng.random() < 0.6 else None
        self.head = nn.Linear(6 if self.memory is not None else channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        for before, layer in zip(self.before, self.layers):
            x = layer(pad(x, (before, 0)) if before else x)
        x = x.transpose(1, 2)
        if self.memory is not None:
            x, _ = self.memory(x)
        return self.head(x[:, -1])


class Residual(nn.Module):
    def __init__(self, channels: int, taps: int, dilation: int) -> None:
        super().__init__()
        self.before, self.conv = (taps - 1) * dilation, nn.Conv1d(channels, channels, taps, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(pad(x, (self.before, 0))))


class Enhanced(nn.Module):
    """Samples to as many samples: down by strides, and up by transposed convolutions whose ends are cut off."""

    def __init__(self, strides: tuple[int, ...], taps: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 4, 5), nn.Conv1d(4, 1, 3) if not strides or strides[0] != 5 else None
        self.down = nn.ModuleList(nn.Conv1d(4, 4, taps * s, s) for s in strides)
        self.up = nn.ModuleList(nn.ConvTranspose1d(4, 4, taps * s, s) for s in reversed(strides))
        self.strides, self.taps = strides, taps

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(pad(x, (4, 0))))
        for stride, layer in zip(self.strides, self.down):
            x = torch.nn.functional.elu(layer(pad(x, ((self.taps - 1) * stride, 0))))
        for stride, layer in zip(reversed(self.strides), self.up):
            cut = (self.taps - 1) * stride
            x = torch.nn.functional.elu(layer(x))
            x = x[..., : x.shape[-1] - cut] if cut else x
        return torch.tanh(self.last(pad(x, (2, 0)))) if self.last is not None else x[:, :1]


def rms_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


class Prepared(nn.Module):
    """What samples go through in front of a network: brought to a range, shifted, cut off; whole numbers are made real."""

    STEPS: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x / 3, lambda x: x * 0.1 - 0.3, lambda x: (x - 0.25) / 0.7, lambda x: x.clamp(-1, 1.5), torch.tanh,
        lambda x: -x, lambda x: x.sign() * x.abs().sqrt(), lambda x: 0.5 * x + torch.relu(x),
    )  # fmt: skip

    def __init__(self, rng: random.Random, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.steps = inner, rng.choices(self.STEPS, k=rng.randint(1, 3))
        self.scale = 1.0 if dtype == torch.float32 else 1 / torch.iinfo(dtype).max

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        for step in self.steps:
            y = step(y)
        return self.inner(y)


def samples(dtype: torch.dtype, *shape: int) -> Tensor:
    if dtype == torch.float32:
        return torch.randn(*shape)
    info = torch.iinfo(dtype)
    return torch.randint(info.min, info.max + 1, shape).to(dtype)


def check(
    model: nn.Module,
    hop: int,
    shape: tuple[int, ...],
    steps: int = STEPS,
    late: int = 0,
    dtype: torch.dtype = torch.float32,
) -> rt.StreamModel:
    """Every step beside the window so far. late: steps that the window is still too short for."""
    live = rt.stream(model, samples(dtype, STREAMS, hop))
    x = samples(dtype, STREAMS, steps * hop)
    for t in range(steps):
        y = live.step(x[:, t * hop : (t + 1) * hop].contiguous())
        if t < late:
            continue
        with torch.no_grad():
            want = model(x[:, : (t + 1) * hop].reshape(STREAMS, *shape, -1))
        if want.dim() == 3:
            want = want.flatten(1)[:, -hop:]
        assert y.shape == want.shape
        assert rms_error(y, want) < 1e-5
    return live


@pytest.mark.parametrize(("size", "hop"), [(32, 32), (64, 32), (64, 16), (40, 16), (50, 20), (16, 8), (60, 20)])
def test_frames_that_overlap(size: int, hop: int) -> None:
    torch.manual_seed(size + hop)
    live = check(Heard(size, hop).eval(), hop, ())
    assert ("fourier" in str(live.explain())) == (size > 16)  # a product with a matrix


@pytest.mark.parametrize("seed", range(20))
def test_samples_that_are_prepared(seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    dtype = rng.choice((torch.float32, torch.int16, torch.int8, torch.uint8))
    inner = rng.choice((Down(rng), Heard(32, 16)))
    check(Prepared(rng, inner, dtype).eval(), getattr(inner, "hop", 16), (1,) * isinstance(inner, Down), dtype=dtype)


@pytest.mark.parametrize("frames", [2, 3])
def test_several_frames_a_step(frames: int) -> None:
    torch.manual_seed(frames)
    check(Heard(64, 16, nn.LSTM).eval(), 16 * frames, ())


def test_frames_of_nothing_but_samples() -> None:
    """Without padding, the first results come when a frame is whole. What has a memory begins then, too."""
    torch.manual_seed(2)
    for memory in (None, nn.GRU, nn.LSTM):
        check(Heard(64, 16, memory, padded=False).eval(), 16, (), late=3)


class Valid(nn.Module):
    """Convolutions without padding before others that have it, and a recurrent layer."""

    def __init__(self, memory: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv1d(3, 5, 4), nn.Conv1d(5, 6, 3, dilation=2), nn.Conv1d(6, 5, 2)
        self.memory = nn.LSTM(5, 4, num_layers=2, batch_first=True) if memory else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(pad(torch.relu(self.first(x)), (4, 0)))) + 1.0
        x = self.third(x).transpose(1, 2)
        return self.memory(x)[0][:, -1] if self.memory is not None else x[:, -1]


@pytest.mark.parametrize("memory", [False, True])
def test_what_begins_late(memory: bool) -> None:
    """A convolution pads the first row that there is, and a recurrent layer starts from zeros there."""
    torch.manual_seed(3)
    model = Valid(memory).eval()
    live, x = rt.stream(model, torch.randn(STREAMS, 3)), torch.randn(STREAMS, 3, 24)
    for again in range(2):
        live.reset()
        for t in range(24):
            y = live.step(x[:, :, t].contiguous())
            if t >= 4:
                with torch.no_grad():
                    assert rms_error(y, model(x[:, :, : t + 1])) < 1e-5, (again, t)


@pytest.mark.parametrize("seed", range(24))
def test_random_stacks(seed: int) -> None:
    torch.manual_seed(seed)
    model = Down(random.Random(seed)).eval()
    check(model, model.hop, (1,))


@pytest.mark.parametrize(
    ("strides", "taps", "steps"), [((), 2, 7), ((2,), 1, 1), ((2,), 2, 3), ((5,), 3, 1), ((2, 4), 2, 1)]
)
def test_samples_to_samples(strides: tuple[int, ...], taps: int, steps: int) -> None:
    torch.manual_seed(taps + steps)
    hop = steps
    for stride in strides:
        hop *= stride
    live = check(Enhanced(strides, taps).eval(), hop, (1,))
    assert live.step(torch.randn(STREAMS, hop)).shape == (STREAMS, hop)


def test_streams_apart_and_kept() -> None:
    torch.manual_seed(7)
    model, hop = Heard(48, 16).eval(), 16
    live, x = rt.stream(model, torch.randn(STREAMS, hop)), torch.randn(STREAMS, 9 * hop)
    chunks = x.reshape(STREAMS, 9, hop)
    for t in range(4):
        live.step(chunks[:, t].contiguous())
    past = live.save_stream(1)
    alone = live.step(chunks[1:, 4].contiguous(), streams=[1])
    live.load_stream(0, past)
    assert torch.equal(live.step(chunks[1:, 4].contiguous(), streams=[0]), alone)
    live.reset()
    chunks[0, 2, 3] = float("nan")
    for t in range(9):
        y = live.step(chunks[:, t].contiguous())
    with torch.no_grad():
        assert rms_error(y[1:], model(x[1:])) < 1e-5
    assert y[0].isnan().all()  # its recurrent layer keeps it


class Chunks(nn.Module):
    """As fronts of public packages have it: a transform is a convolution of long strides, of raw samples."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = (nn.Conv1d(1, 9, 64, stride=16, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sqrt(self.real(x[:, None]) ** 2 + self.imaginary(x[:, None]) ** 2 + 1e-8)
        return y.transpose(1, 2)


@pytest.mark.parametrize("make", [lambda: Heard(64, 16, None), lambda: Chunks()], ids=["frames", "strided"])
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_a_chunk_that_is_not_finite_is_forgotten(scheme: str, make: Callable[[], nn.Module]) -> None:
    """Where nothing is recurrent, it is gone when its samples are: in int8 it does not mark the stream again and again."""
    torch.manual_seed(8)
    model, hop = make().eval(), 16
    calibration = None if scheme == "float32" else [torch.randn(4, 24 * hop)]
    live, x = rt.stream(model, torch.randn(1, hop), scheme, calibration), torch.randn(1, 9 * hop)
    for t in range(9):
        chunk = x[:, t * hop : (t + 1) * hop].clone()
        chunk[0, 5] = float("inf") if t == 2 else chunk[0, 5]
        y = live.step(chunk)
        assert bool(y.isfinite().all()) == (not 2 <= t < 6)
    with torch.no_grad():
        want = model(x)
        assert rms_error(y, want if want.dim() == 2 else want[:, -1]) < (1e-5 if scheme == "float32" else 0.1)


def test_whole_numbers_are_those_of_the_window() -> None:
    """Static scales of raw windows: a stream rounds as a window does."""
    torch.manual_seed(9)
    model = Down(random.Random(11)).eval()
    windows = [torch.randn(4, 1, 24 * model.hop) for _ in range(3)]
    live = rt.stream(model, torch.randn(1, model.hop), "w8a8", calibration=windows)
    whole = rt.compile(model, torch.randn(1, 1, 24 * model.hop), scheme="w8a8", calibration=windows)
    x = torch.randn(1, 1, 24 * model.hop)
    for t in range(24):
        y = live.step(x[:, 0, t * model.hop : (t + 1) * model.hop].contiguous())
    with torch.no_grad():
        exact = model(x)
    assert rms_error(y, exact) < 2 * rms_error(whole(x), exact) + 1e-3
    with pytest.raises(rt.ShapeError, match="whole number of steps"):
        rt.stream(model, torch.randn(1, model.hop), "w8a8", calibration=[torch.randn(4, 1, 24 * model.hop + 1)])


def test_a_file_of_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(10)
    model = Heard(40, 16).eval()
    live = rt.stream(model, torch.randn(1, 16))
    rt.save(live, tmp_path / "heard.rta")
    loaded, x = rt.load(tmp_path / "heard.rta"), torch.randn(6, 1, 16)
    for chunk in x:
        assert torch.equal(loaded.step(chunk), live.step(chunk))


def test_strides_that_do_not_fit_are_named() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(pad(x, (3, 0)))[:, :, -1]

    with pytest.raises(rt.UnsupportedProblem, match="stride 3, for each time step of 16 rows"):
        rt.stream(Uneven().eval(), torch.randn(1, 16))
