"""Branches of one input that are added become one layer, whatever they are made of, and the sum stays what it was."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Block(nn.Module):
    """A random sum of branches. `extra`: the first branch is a result of its own, too, so that it has to stay."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        rank, self.extra = draw.choice((1, 2, 0)), draw.random() < 0.15
        c = draw.choice((3, 8, 17))
        same = draw.random() < 0.7
        n, stride = (c, 1) if same else (draw.choice((5, 16)), draw.choice((1, 2)))
        groups = draw.choice((1, 1, c)) if n == c else 1
        self.branches = nn.ModuleList(self._branch(draw, rank, c, n, stride, groups) for _ in range(draw.randint(1, 4)))
        if n == c and stride == 1:
            for _ in range(draw.choice((0, 1, 1, 2))):
                norm = (
                    nn.Identity()
                    if rank == 0
                    else draw.choice((nn.Identity, (nn.BatchNorm1d, nn.BatchNorm2d)[rank - 1]))
                )
                self.branches.append(norm if isinstance(norm, nn.Module) else norm(c))
        order = list(range(len(self.branches)))
        draw.shuffle(order)
        self.order, self.tree = order, draw.random() < 0.3
        self.activation = draw.choice((nn.ReLU, nn.Identity, nn.Tanh))()
        self.example = torch.randn(2, *((c,) if rank == 0 else (c, *((11,), (9, 8))[rank - 1])))

    def _branch(self, draw: random.Random, rank: int, c: int, n: int, stride: int, groups: int) -> nn.Module:
        if rank == 0:
            return nn.Linear(c, n, bias=draw.random() < 0.5)
        kernel = draw.choice((1, 1, 3, 5))
        dilation = draw.choice((1, 1, 2)) if kernel > 1 else 1
        conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[rank - 1]
        own = draw.choice((groups, groups, 1))
        layer = conv(c, n, kernel, stride, kernel // 2 * dilation, dilation, own, bias=draw.random() < 0.5)
        return nn.Sequential(layer, norm(n)) if draw.random() < 0.7 else layer

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts = [self.branches[i](x) for i in self.order]
        if self.tree and len(parts) > 3:
            parts = [parts[0] + parts[1], sum(parts[2:])]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        y = self.activation(total)
        return (y, parts[0]) if self.extra else y


def prepared(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3)
    return module.eval()


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_branches_equal_torch(seed: int) -> None:
    torch.manual_seed(seed)
    model = prepared(Block(random.Random(seed)))
    x = model.example
    fast, again = rt.compile(model, (x,)), torch.randn_like(x)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(again.double())
    got = fast(again)
    for g, w in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
        assert float((g - w).abs().max()) <= 2e-5 * max(1.0, float(w.abs().max()))


class RepVGG(nn.Module):
    def __init__(self, c: int, n: int, stride: int) -> None:
        super().__init__()
        self.three = nn.Sequential(nn.Conv2d(c, n, 3, stride, 1, bias=False), nn.BatchNorm2d(n))
        self.one = nn.Sequential(nn.Conv2d(c, n, 1, stride, bias=False), nn.BatchNorm2d(n))
        self.skip = nn.BatchNorm2d(c) if c == n and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.three(x) + self.one(x)
        return torch.relu(y if self.skip is None else y + self.skip(x))


def test_blocks_with_three_branches_are_one_convolution_each() -> None:
    torch.manual_seed(3)
    model = prepared(nn.Sequential(RepVGG(4, 16, 2), RepVGG(16, 16, 1), RepVGG(16, 16, 1)))
    x = torch.randn(1, 4, 20, 20)
    fast = rt.compile(model, (x,))
    text = str(fast.explain())
    assert text.count(" conv(") == 3 and "pointwise(" not in text and "linear(" not in text


def test_in_int8_the_input_joins_few_weights() -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 1)
            self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return torch.relu(self.deep(x) + x)

    torch.manual_seed(4)
    model, x = Depthwise().eval(), torch.randn(1, 3, 12, 12)
    text = str(rt.compile(model, (x,), "w8a8", calibration=[x]).explain())
    assert "conv(int8[1, 144, 16]) -> float32[1, 144, 16] + relu" in text


@pytest.mark.parametrize("scheme", ["w4a8", "w4a16", "float8"])
def test_few_bits_leave_the_input_out(scheme: str) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.second(x) + x

    torch.manual_seed(7)
    model, x = Residual().eval(), torch.randn(4, 8)
    fast = rt.compile(model, (x,), scheme)
    with torch.no_grad():
        layer = model.first(x).relu()
        bound = 0.2 * float(model.second(layer).abs().max())  # of the layer alone: the input passes it as it is
        assert float((fast(x) - model(x)).abs().max()) < bound


def test_in_int8_the_input_stays_a_branch_of_its_own() -> None:
    """Its weight near 1 would take the range of many small ones; of the 9 of a depthwise kernel it does not."""
    torch.manual_seed(4)
    model = prepared(RepVGG(16, 16, 1))
    x = torch.randn(1, 16, 12, 12)
    text = str(rt.compile(model, (x,), "w8a8", calibration=[x]).explain())
    assert text.count(" conv(") == 1 and "linear(" not in text and "skip" in text


def test_a_chain_of_sums_keeps_every_addend() -> None:
    """Each layer's input is itself a layer with a residual, and is added to the layer's result."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, padding=1) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            a = self.layers[0](x)
            b = self.layers[1](a) + a
            c = self.layers[2](b) + b + a
            return self.layers[3](c) + self.layers[4](c) + c + b

    torch.manual_seed(6)
    model, x = Chain().eval(), torch.randn(2, 6, 17)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(rt.compile(model, (x,))(x).double(), want, rtol=1e-4, atol=1e-4)


def test_weights_of_a_joined_layer_are_swapped() -> None:
    torch.manual_seed(5)
    models = [prepared(nn.Sequential(RepVGG(8, 16, 1), RepVGG(16, 16, 1))) for _ in range(2)]
    x = torch.randn(1, 8, 9, 9)
    first, second = (rt.compile(model, (x,)) for model in models)
    want = first(x)
    first.swap(second.state_dict())
    assert torch.equal(first(x), second(x))
    first.rollback()
    assert torch.equal(first(x), want)


def test_a_scheme_of_a_joined_layer_is_named() -> None:
    """Both layers are one, with one scheme: a name that meant the other says what became of it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 20), nn.Linear(12, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    x = torch.randn(3, 12)
    for schemes, differ in (({"a": "w8a8"}, True), ({"b": "w8a8"}, True), ({"*": "w8a8"}, False)):
        text = rt.compile(Two().eval(), (x,), schemes, calibration=[x]).explain()
        said = [line for line in text.splitlines() if "it is part of" in line]
        assert len(said) == differ
        assert all("w8a8" in note.lower() and "float32" in note.lower() for note in said)
