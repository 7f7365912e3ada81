"""Rounding for inputs, bit for bit as a plain form of it has it: one column after the other, one scale after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtaccel import _native
from rtaccel.convert.weights.gptq import SWEEPS, round_int4, round_int8
from rtaccel.convert.weights.prune import COLUMNS, DAMPING, InputStatistics, inverse_factor
from rtaccel.formats import int4, int8


def nearest(x: float, limits: tuple[int, int]) -> float:
    return min(max(float(np.rint(x)), limits[0]), limits[1])


def plain(
    weight: Tensor, seen: InputStatistics, block: int, step_of: Callable[[Tensor], Tensor], limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Numbers and steps float64 [N, K]: every number by itself."""
    upper, w = inverse_factor(seen), weight.double().clone()
    n, k = w.shape
    q, steps = torch.zeros(n, k, dtype=torch.float64), torch.zeros(n, k, dtype=torch.float64)
    for first in range(0, k, block):
        last = min(first + block, k)
        step = step_of(w[:, first:last].clone())
        errors = torch.zeros(n, last - first, dtype=torch.float64)
        for i in range(first, last):
            for row in range(n):
                q[row, i] = nearest(float(w[row, i] / step[row]), limits)
            steps[:, i] = step
            errors[:, i - first] = (w[:, i] - q[:, i] * step) / upper[i, i]
            for j in range(i, last):
                w[:, j] -= upper[i, j] * errors[:, i - first]
        w[:, last:] -= errors @ upper[first:last, last:]
    h = seen.second.double().clone()
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    gradient = (weight.double() - q * steps) @ h
    for row in range(n):
        for _ in range(SWEEPS):
            for i in range(k):
                if h[i, i] <= 0:
                    continue
                best = nearest(float(q[row, i] + gradient[row, i] / h[i, i] / steps[row, i]), limits)
                change = best - float(q[row, i])
                q[row, i] = best
                gradient[row] -= change * steps[row, i] * h[i]
    return q, steps


def plain_scale(part: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """q and scale of one group of each row, as `formats.int4` says: scale after scale, the first of the best."""
    groups = torch.nn.functional.pad(part.float(), (0, group_size - part.shape[1]))
    peak = groups.abs().amax(1)
    empty = peak < 2.0**-100
    peak = torch.where(empty, torch.ones_like(peak), peak)
    exponent = torch.frexp(peak).exponent
    groups, peak = torch.ldexp(groups, -exponent[:, None]), torch.ldexp(peak, -exponent)

    def tried(scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = scale.bfloat16().float()
        q = (groups / scale[:, None]).round().clamp(-8, 7)
        return q, scale, torch.addcmul(groups, q, scale[:, None], value=-1).square().sum(1)

    def better(a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        wins = b[2] < a[2]
        return torch.where(wins[:, None], b[0], a[0]), torch.where(wins, b[1], a[1]), torch.where(wins, b[2], a[2])

    best = tried(peak / 8)
    for clip in int4.CLIPS:
        for sign in (1, -1):
            best = better(best, tried(peak * (sign * clip / 8)))
    for _ in range(2):
        q, scale, _ = best
        fitted = (groups * q).sum(1) / q.square().sum(1).clamp_min(1.0)
        best = better(best, tried(torch.where(fitted.abs() < scale.abs() / 2, scale, fitted)))
    q, scale, _ = best
    return q, torch.where(empty, torch.ones_like(scale), torch.ldexp(scale, exponent))


def case(seed: int, n: int, k: int, size: float, zeros: bool) -> tuple[Tensor, InputStatistics]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(50, k, generator=g).double() @ torch.randn(k, k, generator=g).double()
    w = size * torch.randn(n, k, generator=g)
    if zeros:  # an input that is never there, a row and a group without weights, ties between numbers
        x[:, seed % k] = 0
        w = w.round()
        w[seed % n] = 0
        w[:, : k // 2] = 0
    return w, InputStatistics.of_dense(x.T @ x / 50, x.mean(0), 50)


SIZES = st.sampled_from([1e-20, 1e-3, 1.0, 3.0, 1e6])


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 70), SIZES, st.booleans(), st.sampled_from([16, 32, 64])
)
def test_int4_as_the_plain_form(seed: int, n: int, k: int, size: float, zeros: bool, group_size: int) -> None:
    w, seen = case(seed, n, k, size, zeros)
    q, steps = plain(w, seen, group_size, lambda part: plain_scale(part, group_size)[1].double(), (-8, 7))
    packed, scale = round_int4(w, seen, group_size)
    assert torch.equal(int4.unpack(packed, k), q.to(torch.int8))
    assert torch.equal(scale.double().repeat_interleave(group_size, 1)[:, :k], steps)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1, 5, 40, COLUMNS + 7]), SIZES, st.booleans())
def test_int8_as_the_plain_form(seed: int, n: int, k: int, size: float, zeros: bool) -> None:
    w, seen = case(seed, n, k, size, zeros)
    own = int8.quantize_weight(w)[1]
    q, _ = plain(w, seen, COLUMNS, lambda part: own.double(), (-127, 127))
    made, scale = round_int8(w, seen)
    assert torch.equal(made, q.to(torch.int8))
    assert torch.equal(scale, own)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 150), SIZES, st.sampled_from([16, 32, 64, 128]))
def test_scales_of_groups_as_the_plain_form(seed: int, n: int, k: int, size: float, group_size: int) -> None:
    """One row of one group too, whose sums torch could take apart otherwise."""
    w = size * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    packed, scale = int4.quantize_weight(w, group_size)
    for group, part in enumerate(w.split(group_size, 1)):
        q, wanted = plain_scale(part, group_size)
        assert torch.equal(scale[:, group], wanted)
        at = group * group_size
        assert torch.equal(int4.unpack(packed, k)[:, at : at + group_size], q[:, : part.shape[1]].to(torch.int8))


def test_scales_tried_in_parts_are_those_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a weight that is too large to try all scales together."""
    w = torch.randn(37, 200, generator=torch.Generator().manual_seed(0))
    once = int4.quantize_weight(w, 32)
    for numbers in (40, 900, 9000, 30_000):
        monkeypatch.setattr(int4, "_CHUNK", numbers)
        assert all(torch.equal(a, b) for a, b in zip(once, int4.quantize_weight(w, 32)))


@pytest.mark.parametrize("wrong", range(5))
def test_arrays_of_other_shapes_are_refused(wrong: int) -> None:
    """Nothing is read or written beyond an array."""
    right = [np.ones((3, 4)), np.ones(4), np.ones((3, 3)), np.ones((3, 4)), np.ones((3, 4))]
    for bad in (np.ones((2, 4)), np.ones((3, 5)), np.ones(3), np.ones((3, 4), np.float32)):
        given_ = [*right[:wrong], bad, *right[wrong + 1 :]]
        before = [x.copy() for x in given_]
        with pytest.raises((ValueError, TypeError)):
            _native.round_columns(*given_[:3], -8.0, 7.0, *given_[3:])
        assert all(np.array_equal(a, b) for a, b in zip(before, given_))
    if wrong < 4:
        given_ = [np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 3)), np.ones((2, 3))]
        given_[wrong] = np.ones((4, 4))
        with pytest.raises(ValueError, match="shape"):
            _native.descend(*given_, -8.0, 7.0, 4)
