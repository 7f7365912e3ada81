"""ONNX forms of volumes, of images one below the other, and of sequences side by side in a sample: drawn models."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.deploy.onnx.forms.image_rows import image_of
from rtaccel.kernels._common.geometry import Geometry
from tests.support.onnx_peer import run, worst

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = range(12)


class Apart(nn.Module):
    """A layer over each frame of a sample [F, ...]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.flatten(0, 1))
        y = y[0] if isinstance(y, tuple) else y
        return torch.tanh(y).unflatten(0, x.shape[:2])


def layer(draw: random.Random, rank: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution over `rank` dimensions, or a transposed one, and the shape of its input."""
    groups = draw.choice((1, 1, 2, 3))
    channels, filters = groups * draw.randint(1, 3), groups * draw.randint(1, 3)
    kernel, stride, dilation = (tuple(draw.randint(1, n) for _ in range(rank)) for n in (3, 2, 2))
    padding = tuple(draw.randint(0, (k - 1) * d) for k, d in zip(kernel, dilation))
    sizes = tuple((k - 1) * d + draw.randint(1, 4) for k, d in zip(kernel, dilation))
    turned = draw.random() < 0.3
    kind = getattr(nn, f"Conv{'Transpose' if turned else ''}{rank}d")
    made = kind(channels, filters, kernel, stride, padding=padding, dilation=dilation, groups=groups)
    with torch.no_grad():
        try:
            made(torch.zeros(1, channels, *sizes))
        except RuntimeError:  # a transposed one that gives nothing
            return layer(draw, rank)
    return made, (channels, *sizes)


def check(model: nn.Module, shape: tuple[int, ...], scheme: str, batches: tuple[int, ...] = (2, 1, 5)) -> Any:
    """The written graph, which ONNX Runtime runs as the compiled model does."""
    calls = [torch.randn(8, *shape)] if scheme == "w8a8" else None
    fast = rt.compile(model.eval(), torch.randn(2, *shape), scheme=scheme, calibration=calls)
    written = rt.to_onnx(fast)
    onnx.checker.check_model(written, full_check=True)
    for size in batches:
        if size in fast.batch:
            x = torch.randn(size, *shape)
            assert worst(fast(x), run(written, (x,))) < (3e-2 if scheme == "w8a8" else 2e-6), model
    return written


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("seed", SEEDS)
def test_volumes(seed: int, scheme: str) -> None:
    made, shape = layer(random.Random(seed), 3)
    check(nn.Sequential(made, nn.Tanh()), shape, scheme)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("seed", SEEDS)
def test_images_of_a_sample(seed: int, scheme: str) -> None:
    draw = random.Random(100 + seed)
    made, shape = layer(draw, draw.choice((1, 2)))
    check(Apart(made), (draw.randint(2, 4), *shape), scheme)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_sequences_of_a_sample(seed: int, kind: Any, scheme: str) -> None:
    draw = random.Random(200 + seed)
    width, hidden = draw.randint(1, 9), draw.randint(1, 9)
    first = draw.random() < 0.5
    made = kind(width, hidden, draw.randint(1, 2), batch_first=first, bidirectional=draw.random() < 0.5)
    if first:
        return check(Apart(made), (draw.randint(2, 4), draw.randint(2, 6), width), scheme)
    made.batch_first = True
    model = nn.Sequential(Turned(), Apart(made))
    return check(model, (draw.randint(2, 6), draw.randint(2, 4), width), scheme)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_a_volume_is_one_conv_over_three_dimensions() -> None:
    model = nn.Sequential(nn.Conv3d(2, 4, (2, 3, 3), stride=(1, 2, 1), dilation=(2, 1, 1)), nn.ReLU())
    written = check(model, (2, 5, 7, 6), "float32")
    (node,) = (node for node in written.graph.node if node.op_type == "Conv")
    assert {a.name: list(a.ints) for a in node.attribute if a.ints} == {
        "kernel_shape": [2, 3, 3], "strides": [1, 2, 1], "dilations": [2, 1, 1], "pads": [0] * 6,
    }  # fmt: skip
    assert "Gather" not in {node.op_type for node in written.graph.node}


@pytest.mark.parametrize("seed", range(60))
def test_planes_read_the_rows_of_the_plan(seed: int) -> None:
    """Steps that are found again give the rows that they were made of; other rows are taken one by one."""
    draw = random.Random(seed)
    images, out, kernel = draw.randint(1, 3), [draw.randint(1, 3) for _ in "dh"], [draw.randint(1, 3) for _ in "dh"]
    stride, dilation = [draw.randint(1, 3) for _ in "dh"], [draw.randint(1, 3) for _ in "dh"]
    sizes = [(o - 1) * s + (k - 1) * d + draw.randint(1, 2) for o, s, k, d in zip(out, stride, kernel, dilation)]
    apart = sizes[0] * sizes[1]
    taps = [d * dilation[0] * sizes[1] + h * dilation[1] for d in range(kernel[0]) for h in range(kernel[1])]
    starts = [
        i * apart + d * stride[0] * sizes[1] + h * stride[1]
        for i in range(images) for d in range(out[0]) for h in range(out[1])
    ]  # fmt: skip
    odd = seed % 3 == 0 and len(taps) > 2
    if odd:
        taps[1] += 0 if taps[1] + 1 in taps else 1
    height = max(images * apart, max(starts) + max(taps) + 1)
    g = Geometry(
        (height, 4), (len(taps), 2), (1, 1), (0, 0), (1, 1), (len(starts), 3), None, None, tuple(starts), tuple(taps)
    )
    found = image_of(g)
    if found.rows is not None:
        assert odd and found.rows == tuple(tuple(s + t for t in taps) for s in starts)
        return
    assert rows_of(found) == [[s + t for t in taps] for s in starts]


def rows_of(image: Any) -> list[list[int]]:
    """The rows that each output of a Conv reads, from its attributes alone."""
    ones = (1,) * (3 - len(image.sizes))
    planes, rows, _ = (*ones, *image.sizes)
    made = []
    for i in range(image.images):
        for od in range((*ones, *image.out)[0]):
            for oh in range((*ones, *image.out)[1]):
                read = []
                for td in range((*ones, *image.kernel)[0]):
                    for th in range((*ones, *image.kernel)[1]):
                        d = od * (*ones, *image.stride)[0] + td * (*ones, *image.dilation)[0]
                        h = oh * (*ones, *image.stride)[1] + th * (*ones, *image.dilation)[1]
                        assert d < planes and h < rows
                        read.append((i * planes + d) * rows + h)
                made.append(read)
    return made


def test_conformance_cases_without_steps_are_drawn() -> None:
    cases = [case.stage for case in operator("conv").cases() if case.stage.attrs.get("out_rows")]
    assert any(image_of(Geometry.of(stage)).rows is not None for stage in cases)
