"""Linear recurrences written as parallel scans are one linear scan, compiled and streamed; what only looks like one is not."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt

Scan = Callable[[Tensor, Tensor], Tensor]
"""(a, b), [batch, time, ...] -> h."""


def in_place(a: Tensor, b: Tensor) -> Tensor:
    """Blelloch's: up and down a tree, in the memory of the inputs. Time padded to a power of two."""
    time = b.shape[1]
    levels = math.ceil(math.log2(time))
    a, b = (F.pad(x, (0, 0) * (x.dim() - 2) + (0, 2**levels - time)) for x in (a, b))
    for level in range(levels):
        step = 2 ** (level + 1)
        left, right = slice(step // 2 - 1, None, step), slice(step - 1, None, step)
        b[:, right] += a[:, right] * b[:, left]
        a[:, right] *= a[:, left]
    for level in reversed(range(1, levels)):
        step = 2**level
        left, right = slice(step - 1, -step // 2, step), slice(step + step // 2 - 1, None, step)
        b[:, right] += a[:, right] * b[:, left]
        a[:, right] *= a[:, left]
    return b[:, :time]


def doubling(a: Tensor, b: Tensor) -> Tensor:
    """Hillis and Steele's: each time step takes in the one so many before, twice as far each time."""
    far = 1
    while far < b.shape[1]:
        b = torch.cat((b[:, :far], b[:, far:] + a[:, far:] * b[:, :-far]), 1)
        a = torch.cat((a[:, :far], a[:, far:] * a[:, :-far]), 1)
        far *= 2
    return b


def shifted(a: Tensor, b: Tensor) -> Tensor:
    """The same with zeros shifted in; factors before the first time step are zeros too."""
    far, time = 1, b.shape[1]
    while far < time:
        before = [F.pad(x, (0, 0) * (x.dim() - 2) + (far, 0))[:, :time] for x in (a, b)]
        a, b = a * before[0], b + a * before[1]
        far *= 2
    return b


def halves(a: Tensor, b: Tensor) -> Tensor:
    """The second half goes on from the end of the first."""

    def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if b.shape[1] == 1:
            return a, b
        at = b.shape[1] // 2
        (a0, b0), (a1, b1) = both(a[:, :at], b[:, :at]), both(a[:, at:], b[:, at:])
        return torch.cat((a0, a1 * a0[:, -1:]), 1), torch.cat((b0, a1 * b0[:, -1:] + b1), 1)

    return both(a, b)[1]


def odd_and_even(a: Tensor, b: Tensor) -> Tensor:
    """Pairs, their scan, and what is between: jax's, and torch's `associative_scan`."""

    def join(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    from torch._higher_order_ops.associative_scan import associative_scan

    return associative_scan(join, (a, b), dim=1, combine_mode="generic")[1]


SCANS: tuple[Scan, ...] = (in_place, doubling, shifted, halves, odd_and_even)


class Recurrence(nn.Module):
    """A selective recurrence over [batch, time, 5], by a parallel scan."""

    def __init__(self, scan: Scan, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.scan, self.width, self.states = scan, draw.choice((3, 8)), draw.choice((0, 4))
        self.first, self.gate = nn.Linear(5, self.width), nn.Linear(5, self.width)
        self.mix, self.decay = (
            nn.Linear(5, max(self.states, 1)),
            nn.Parameter(torch.rand(self.width, max(self.states, 1))),
        )
        self.back = draw.random() < 0.3
        self.head = nn.Linear(self.width, 2)
        self.last = draw.random() < 0.3 and not self.back

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.sigmoid(self.gate(x)), torch.tanh(self.first(x))
        if self.states:
            a, b = torch.exp(-a[..., None] * self.decay), b[..., None] * self.mix(x)[:, :, None]
        h = self.scan(a.flip(1), b.flip(1)).flip(1) if self.back else self.scan(a, b)
        if self.states:
            h = (h * self.mix(x)[:, :, None]).sum(-1)
        return self.head(h[:, -1] if self.last else h)


def near_float64(model: nn.Module, fast: Callable[..., Tensor], x: Tensor) -> None:
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    got = fast(x).double()
    assert (got - want).abs().max() < 2e-6 * (1 + want.abs().max())


@pytest.mark.turns(2)
@pytest.mark.parametrize("scan", SCANS, ids=lambda s: s.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_one_scan_in_its_place(scan: Scan, seed: int) -> None:
    torch.manual_seed(seed)
    time = random.Random(seed).randint(6, 40)
    model = Recurrence(scan, seed).eval()
    fast = rt.compile(model, (torch.randn(2, time, 5),), strict=True)
    told = fast.explain()
    assert told.count(" linear_scan(") == 1
    assert " assemble(" not in told
    near_float64(model, fast, torch.randn(2, time, 5))


def test_each_layer_has_its_own() -> None:
    torch.manual_seed(2)
    layers = [m for seed in range(40) if not (m := Recurrence(SCANS[seed % 5], seed)).last][:4]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Linear(2, 5)))).eval()
    fast = rt.compile(model, (torch.randn(2, 12, 5),), strict=True)
    assert fast.explain().count(" linear_scan(") == len(layers)
    near_float64(model, fast, torch.randn(2, 12, 5))


@pytest.mark.parametrize("scan", SCANS, ids=lambda s: s.__name__)
def test_streams(scan: Scan) -> None:
    torch.manual_seed(1)
    model = next(m for seed in range(20) if not (m := Recurrence(scan, seed)).back and m.states).eval()
    stream = rt.stream(model, torch.randn(1, 5))
    x = torch.randn(1, 30, 5)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    steps = [stream(x[:, t]).double() for t in range(30)]
    got = steps[-1] if model.last else torch.stack(steps, 1)
    assert (got - want).abs().max() < 2e-6 * (1 + want.abs().max())


def no_factors(a: Tensor, b: Tensor) -> Tensor:
    """`doubling` whose factors stay those of one time step."""
    far = 1
    while far < b.shape[1]:
        b = torch.cat((b[:, :far], b[:, far:] + a[:, far:] * b[:, :-far]), 1)
        far *= 2
    return b


def one_level_less(a: Tensor, b: Tensor) -> Tensor:
    """`doubling` that ends too early for the last time steps."""
    far = 1
    while far * 2 < b.shape[1]:
        b = torch.cat((b[:, :far], b[:, far:] + a[:, far:] * b[:, :-far]), 1)
        a = torch.cat((a[:, :far], a[:, far:] * a[:, :-far]), 1)
        far *= 2
    return b


def one_place_off(a: Tensor, b: Tensor) -> Tensor:
    """The factor of the time step before."""
    return doubling(torch.cat((a[:, -1:], a[:, :-1]), 1), b)


def one_entry_off(a: Tensor, b: Tensor) -> Tensor:
    """A scan, but for one line at one time step."""
    h = halves(a, b)
    other = h[:, 5, :1] + b[:, 3, :1]
    return torch.slice_scatter(h, torch.cat((other, h[:, 5, 1:]), 1)[:, None], 1, 5, 6)


@pytest.mark.parametrize("scan", [no_factors, one_level_less, one_entry_off], ids=lambda s: s.__name__)
def test_what_is_no_recurrence_is_computed_as_it_is(scan: Scan) -> None:
    torch.manual_seed(3)
    model = Recurrence(
        scan, next(s for s in range(50) if not Recurrence(scan, s).back and not Recurrence(scan, s).last)
    ).eval()
    fast = rt.compile(model, (torch.randn(2, 20, 5),), strict=True)
    near_float64(model, fast, torch.randn(2, 20, 5))
    if scan is not one_entry_off:  # the scan inside it is one
        assert " linear_scan(" not in fast.explain()


def test_factors_of_the_time_step_before() -> None:
    torch.manual_seed(4)
    model = Recurrence(one_place_off, 0).eval()
    fast = rt.compile(model, (torch.randn(2, 20, 5),), strict=True)
    near_float64(model, fast, torch.randn(2, 20, 5))


def test_a_nan_goes_on_along_its_line() -> None:
    torch.manual_seed(5)
    model = Recurrence(in_place, 1).eval()
    fast = rt.compile(model, (torch.randn(2, 20, 5),), strict=True)
    x = torch.randn(2, 20, 5)
    x[0, 7, 2] = math.nan
    with torch.no_grad():
        want = model(x)
    assert torch.equal(fast(x).isnan(), want.isnan())
