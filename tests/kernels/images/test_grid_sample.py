"""Images read at the points of a grid, as models write it: beside torch, ONNX Runtime, and what cannot be."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt
from rtaccel.core.stage import Stage
from rtaccel.kernels.grid_sample import contract

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


class Samples(nn.Module):
    """before: what makes the image: nothing, or a convolution, which gives channels last."""

    def __init__(self, mode: str, padding: str, align: bool, before: nn.Module) -> None:
        super().__init__()
        self.mode, self.padding, self.align, self.before = mode, padding, align, before

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(self.before(x), grid, self.mode, self.padding, self.align)


def drawn(seed: int) -> tuple[Samples, tuple[Tensor, Tensor]]:
    draw = random.Random(seed)
    rank = draw.choice((2, 2, 3))
    mode = draw.choice(MODES if rank == 2 else MODES[:2])
    channels, batch = draw.choice((1, 3, 17)), draw.choice((1, 2, 3))
    sizes, outs = ([draw.randint(1, 9) for _ in range(rank)] for _ in range(2))
    before: nn.Module = nn.Identity()
    if draw.random() < 0.5:
        before = (nn.Conv2d if rank == 2 else nn.Conv3d)(channels, draw.choice((2, 8)), 1)
    model = Samples(mode, draw.choice(PADDINGS), draw.random() < 0.5, before).eval()
    grid = torch.randn(batch, *outs, rank)
    grid.reshape(-1)[::13] = draw.choice((float("nan"), float("inf"), -1.0, 1.0, 1e9))
    return model, (torch.randn(batch, channels, *sizes), grid)


@pytest.mark.parametrize("seed", range(80))
def test_a_random_model_is_native_and_equals_torch(seed: int) -> None:
    torch.manual_seed(seed)
    model, args = drawn(seed)
    fast = rt.compile(model, args, strict=True)
    for own in (args, drawn(seed)[1]):
        torch.testing.assert_close(fast(*own), model(*own), rtol=1e-5, atol=1e-5, equal_nan=True)


class Localised(nn.Module):
    """A spatial transformer: the grid is computed of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        theta = self.head(y.mean((2, 3))).reshape(-1, 2, 3)
        return F.grid_sample(y, F.affine_grid(theta, list(y.shape), align_corners=False), align_corners=False)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_a_spatial_transformer(scheme: str) -> None:
    torch.manual_seed(0)
    model, x = Localised().eval(), torch.randn(4, 3, 12, 10)
    fast = rt.compile(model, (x,), scheme=scheme, calibration=[(torch.randn(4, 3, 12, 10),) for _ in range(4)])
    found, wanted = fast(x), model(x)
    error = (found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert error < (1e-5 if scheme == "float32" else 0.1)


@pytest.mark.parametrize(("mode", "padding", "align"), list(itertools.product(MODES, PADDINGS, (False, True))))
def test_onnx_says_the_same(mode: str, padding: str, align: bool) -> None:
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(1)
    model = Samples(mode, padding, align, nn.Conv2d(3, 5, 1)).eval()
    args = torch.randn(2, 3, 7, 6), torch.rand(2, 4, 5, 2) * 2.4 - 1.2
    fast = rt.compile(model, args)
    content = rt.to_onnx(fast).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (a.numpy() for a in args))))
    torch.testing.assert_close(torch.from_numpy(found), fast(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_grid_for_all_samples_is_kept_in_the_plan(channels_last: bool) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid", torch.rand(1, 3, 4, 2) * 2 - 1)
            self.before = nn.Conv2d(2, 5, 1) if channels_last else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            grid = self.grid.expand(x.shape[0], -1, -1, -1)
            return F.grid_sample(self.before(x), grid, align_corners=False)

    model, x = Fixed().eval(), torch.randn(3, 2, 5, 6)
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    session = pytest.importorskip("onnxruntime").InferenceSession(rt.to_onnx(fast).SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": (4, 6)}, "an image|images of"), ({"images": 2}, "images of"), ({"mode": 3}, "modes"),
        ({"padding": -1}, "modes"), ({"channels_last": 1}, "images of"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict, words: str) -> None:
    good = contract.make_stage((4, 5), 3, 7, 1, 0, mode=0, padding=0, align=0)
    stage = Stage("grid_sample", "case", good.inputs, good.outputs, {}, {**good.attrs, **change})
    with pytest.raises(rt.ShapeError, match=f"grid_sample: .*({words})"):
        contract.lower(stage)
