"""Layers that torch has taken apart into calls of its kernels: in graphs of `run_decompositions`, and beside `vmap`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Calls(nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *given: Tensor) -> Tensor:
        return self.call(*given)


class BesideVmap(nn.Module):
    """Python reads a number that vmap has computed of a constant: the calls are written down below the dispatcher."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("numbers", torch.arange(3))

    def forward(self, *given: Tensor) -> Tensor:
        doubled = torch.vmap(lambda n: n * 2)(self.numbers)
        y = self.model(*given)
        return y + 1 if bool(doubled[1] > 1) else y


def normed(norm: nn.Module) -> nn.Module:
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2)
    return norm


def transforms(x: Tensor) -> Tensor:
    """Each kind, in each way of scaling."""
    whole = [torch.fft.fft(x, norm=norm).abs() for norm in ("backward", "ortho", "forward")]
    half = [
        torch.fft.irfft(torch.fft.rfft(x, norm=norm) * 2, n=x.shape[-1], norm="ortho") for norm in (None, "forward")
    ]
    back = [torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1, norm=norm).real for norm in (None, "ortho", "forward")]
    flat = [torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:], norm="ortho"), torch.fft.ifft2(torch.fft.fft2(x)).real]
    return torch.cat([*whole, *half, *back, *flat], -1)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, 2, 1, 2, 2), ((2, 6, 17),)),
    "conv1d_same": (lambda: nn.Conv1d(6, 6, 5, padding="same", groups=6, bias=False), ((2, 6, 17),)),
    "conv1d_circular": (lambda: nn.Conv1d(6, 4, 3, padding=1, padding_mode="circular"), ((2, 6, 17),)),
    "conv2d": (lambda: nn.Conv2d(3, 5, (3, 2), (1, 2), (2, 0)), ((2, 3, 9, 7),)),
    "conv3d": (lambda: nn.Conv3d(3, 5, 3), ((2, 3, 5, 6, 4),)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(6, 4, 3, 2, 1, 1, 2, dilation=2), ((2, 6, 7),)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 4, (3, 2), 2, bias=False), ((2, 3, 5, 6),)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(3, 4, 2), ((2, 3, 3, 4, 3),)),
    "without_samples": (lambda: nn.Conv1d(6, 4, 3), ((6, 17),)),
    "computed_weight": (lambda: Calls(lambda x, w: nn.functional.conv1d(x, w, padding=1)), ((2, 6, 9), (3, 6, 2))),
    "batch_norm": (lambda: nn.Sequential(nn.Conv1d(3, 4, 2), normed(nn.BatchNorm1d(4))), ((2, 3, 7),)),
    "batch_norm2d": (lambda: normed(nn.BatchNorm2d(5)), ((2, 5, 3, 4),)),
    "instance_norm": (lambda: normed(nn.InstanceNorm1d(5, affine=True)), ((2, 5, 9),)),
    "rrelu": (lambda: nn.RReLU(0.1, 0.4), ((2, 9),)),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), ((2, 3), (2, 4))),
    "fourier": (lambda: Calls(transforms), ((2, 6, 7),)),
    "stft": (
        lambda: Calls(lambda x: torch.stft(x, 8, window=torch.hann_window(8), return_complex=True).abs()),
        ((2, 41),),
    ),
}
"""(a model, the shapes of what it takes)."""


@pytest.mark.parametrize("decomposed", [True, False], ids=["run_decompositions", "vmap"])
@pytest.mark.parametrize("name", MODELS)
def test_layers(name: str, decomposed: bool) -> None:
    torch.manual_seed(len(name))
    make, shapes = MODELS[name]
    layer = make().eval()
    given = tuple(torch.randn(shape) for shape in shapes)
    program = torch.export.export(layer, given).run_decompositions() if decomposed else None
    model = BesideVmap(layer).eval() if program is None else program.module()
    fast = rt.compile(model, given, strict=True)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-4, atol=1e-5)
        given = tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str) -> None:
    model = BesideVmap(nn.EmbeddingBag(9, 4, mode=mode)).eval()
    fast = rt.compile(model, torch.randint(0, 9, (3, 5)), strict=True)
    given = torch.randint(0, 9, (3, 5))
    torch.testing.assert_close(fast(given), model(given))


def test_a_program_of_any_batch() -> None:
    """It has no modes: dropout is not in its graph, and `eval` raises."""
    model = nn.Sequential(nn.Conv1d(3, 4, 3), normed(nn.BatchNorm1d(4)), nn.Dropout(), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for module in (program.module(), program.run_decompositions().module()):
        fast = rt.compile(module, x, strict=True)
        for given in (x, torch.randn(5, 3, 9)):
            torch.testing.assert_close(fast(given), model(given))


def test_more_than_a_layer_gives() -> None:
    """The statistics beside a normed batch are the kernel's alone."""
    model = Calls(lambda x: torch.native_batch_norm(x, None, None, torch.zeros(3), torch.ones(3), False, 0.1, 1e-5)[0])
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(rt.compile(model.eval(), x, strict=True)(x), model(x))
