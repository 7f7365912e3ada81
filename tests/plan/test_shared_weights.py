"""Stages alike that have the same weights read one packed copy, and only those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.sparse_linear import contract as sparse_linear

WIDTH, STEPS = 48, 20


class Loop(nn.Module):
    """layers: of each step; the same one again is one layer."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + 0.1 * x
        return x


def _packed(model: nn.Module, scheme: str = "float32") -> int:
    fast = rt.compile(model.eval(), torch.randn(1, WIDTH), scheme=scheme, strict=True, calibration=_batches(scheme))
    return sum(plan.packed_bytes for plan in fast._executor.native_plans)


def _batches(scheme: str) -> list[Tensor] | None:
    return [torch.randn(16, WIDTH) for _ in range(2)] if scheme == "w8a8" else None


@pytest.mark.parametrize("scheme", ["float32", "w4a16"])
def test_a_loop_written_out_packs_its_weights_once(scheme: str) -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    one, many = _packed(Loop([layer]), scheme), _packed(Loop([layer] * STEPS), scheme)
    other = _packed(Loop([nn.Linear(WIDTH, WIDTH) for _ in range(STEPS)]), scheme)
    assert many - one < other / 4


def test_results_are_those_of_weights_of_their_own() -> None:
    torch.manual_seed(0)
    layer, last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    near = nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        near.weight.copy_(layer.weight)
        near.weight[-1, -1] += 1.0  # one number is another
        near.bias.copy_(layer.bias)
    model = Loop([layer, near, layer, last, near, layer]).eval()
    fast = rt.compile(model, torch.randn(1, WIDTH), strict=True)
    for size in (1, 2, 9):
        x = torch.randn(size, WIDTH)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["float32", "w8a16"])
def test_weights_that_differ_in_one_number_anywhere_are_others(scheme: str) -> None:
    """Packed copies are compared byte for byte: whichever number it is, and however little of it."""
    torch.manual_seed(0)
    width = 17
    first = nn.Linear(width, width)
    layers = [first]
    for at in (0, 7, width * width // 2, width * width - 1):
        layers.append(near := nn.Linear(width, width))
        near.load_state_dict(first.state_dict())
        number = near.weight.detach().view(-1)[at]
        number.copy_(torch.nextafter(number, torch.tensor(9.0)) if scheme == "float32" else -number)
    layers.append(near := nn.Linear(width, width))
    near.load_state_dict(first.state_dict())
    near.bias.detach()[width - 1] += 1e-6
    single = rt.compile(Loop([first]).eval(), torch.randn(1, width), scheme, strict=True)
    every = rt.compile(Loop([*layers, first]).eval(), torch.randn(1, width), scheme, strict=True)
    bytes_of = [sum(plan.packed_bytes for plan in fast._executor.native_plans) for fast in (single, every)]
    assert bytes_of[1] >= len(layers) * bytes_of[0] - 64 * len(layers)
    x = torch.randn(2, width)
    apart = [rt.compile(Loop([layer]).eval(), torch.randn(1, width), scheme, strict=True) for layer in layers]
    want = x
    for fast in (*apart, apart[0]):
        want = fast(want)
    assert torch.equal(every(x), want)


def test_sparse_weights_are_shared_too() -> None:
    stage = sparse_linear.make_stage(24, 24, "float32", "window", 0.2)
    kernel = next(i.name for i in impls("cpu", "sparse_linear") if i.name == "cpu_window_portable")
    chain, inputs = [], stage.inputs
    for i in range(4):
        outputs = (replace(stage.outputs[0], name=f"y{i}"),)
        chain.append((replace(stage, name=f"s{i}", inputs=inputs, outputs=outputs), kernel))
        inputs = outputs
    one, many = (
        build(stages, [GraphIO.matrix(v) for v in stage.inputs], [GraphIO.matrix(stages[-1][0].outputs[0])])
        for stages in (chain[:1], chain)
    )
    assert many.packed_bytes == one.packed_bytes > 0
    x = torch.randn(5, 24)
    want = x
    for _ in chain:
        want = one.call((want,))
    assert torch.equal(many.call((x,)), want)


def test_weights_exchanged_or_saved_are_shared_as_before(tmp_path: Path) -> None:
    first, second = (Loop([nn.Linear(WIDTH, WIDTH)] * STEPS).eval() for _ in range(2))
    fast = rt.compile(first, torch.randn(1, WIDTH), strict=True)
    x = torch.randn(3, WIDTH)
    rt.save(fast, tmp_path / "net.safetensors", prepacked=True)
    for path in (tmp_path / "net.safetensors",):
        loaded = rt.load(path)
        assert torch.equal(loaded(x), fast(x))
    fast.swap(rt.compile(second, torch.randn(1, WIDTH), strict=True))
    torch.testing.assert_close(fast(x), second(x).detach(), rtol=1e-5, atol=1e-5)
