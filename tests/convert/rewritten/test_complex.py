"""Complex tensors inside a model: native as pairs of real ones, with any number of samples, against torch in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.complex.matrices import split
from rtaccel.convert.frontend.complex.rewrite import without_complex


class Spectral(nn.Module):
    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.filter = nn.Parameter(torch.view_as_complex(torch.randn(9, 2)))
        self.modes = nn.Parameter(torch.randn(3, 4, 5, 2))
        self.register_buffer("short", torch.hann_window(64))
        self.register_buffer("long", torch.hann_window(1024))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def stft(x: Tensor, n: int, hop: int, window: Tensor, **more: Any) -> Tensor:
    return torch.stft(x, n, hop, window=window, return_complex=True, **more)


def _written(m: Any, z: Tensor) -> Tensor:
    """The first modes through a contraction, the others zero: what spectral operators do."""
    out = torch.zeros(z.shape[0], 4, 9, dtype=z.dtype)
    out[:, :, :5] = torch.tensordot(z[:, :, 0], torch.view_as_complex(m.modes), dims=([1], [0]))
    return torch.fft.irfft(out, n=16)


def _three(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.fft.rfft(x)
    return z, z.conj(), x[:, 0, :9].to(z.dtype)


def _system(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, 4, 6] as a matrix with a strong diagonal, and two right sides."""
    z = torch.complex(x, x.flip(-1))
    return z[..., :4] / 4 + 4 * torch.eye(4), z[..., 4:]


CALLS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "magnitude": (lambda m, x: torch.fft.rfft(x).abs(), (3, 16)),
    "all of an odd length": (lambda m, x: torch.view_as_real(torch.fft.fft(x, norm="ortho")), (3, 15)),
    "along another dimension": (lambda m, x: torch.fft.irfft(torch.fft.rfft(x, dim=1)[:, :, :3], n=17, dim=1), (17, 3)),
    "cut and padded": (lambda m, x: torch.fft.rfft(x, n=9).real + torch.fft.rfft(x, n=9).imag, (3, 16)),
    "padded": (lambda m, x: torch.fft.rfft(x, n=33, norm="forward").abs(), (3, 16)),
    "of real numbers to real ones": (
        lambda m, x: torch.fft.irfft(x, n=11) + torch.fft.irfft(x[..., :6], n=11, norm="ortho"), (3, 16),
    ),
    "of real images to real ones": (lambda m, x: torch.fft.irfft2(x), (2, 8, 5)),
    "of Hermitian signals": (
        lambda m, x: torch.fft.hfft(torch.fft.rfft(x)) + torch.fft.hfft(x[..., :9], norm="forward"), (3, 16),
    ),
    "to Hermitian signals": (
        lambda m, x: torch.fft.ihfft(x, n=12).imag + torch.fft.ihfft(x, norm="ortho").real[..., :7], (3, 16),
    ),
    "a filter": (lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * m.filter, n=16), (3, 16)),
    "in two steps": (lambda m, x: torch.fft.rfft(x).abs(), (2, 1536)),
    "there and back in two steps": (lambda m, x: torch.fft.ifft(torch.fft.fft(x) * 1j).imag, (1024,)),
    "two dimensions": (lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 10)), (2, 8, 10)),
    "all dimensions named": (lambda m, x: torch.fft.ifftn(torch.fft.fftn(x, dim=(-2, -1)), dim=(-2, -1)).real, (6, 5)),
    "modes of an operator": (
        lambda m, x: torch.fft.irfft(
            torch.einsum("bix,iox->box", torch.fft.rfft(x)[:, :, :5], torch.view_as_complex(m.modes)), n=16
        ),
        (3, 16),
    ),
    "written into zeros, and contracted": (lambda m, x: _written(m, torch.fft.rfft(x)), (3, 16)),
    "masked": (lambda m, x: torch.fft.irfft(torch.fft.rfft(x).masked_fill(x[..., :9] > 0, 0.5), n=16), (3, 16)),
    "short-time": (lambda m, x: stft(x, 64, 16, m.short).abs(), (400,)),
    "short-time, power in dB": (lambda m, x: 10 * stft(x, 64, 16, m.short).abs().pow(2).clamp(min=1e-2).log10(), (400,)),
    "short-time, not centered": (lambda m, x: stft(x, 64, 32, m.short, center=False, normalized=True).imag, (400,)),
    "short-time, long frames": (lambda m, x: stft(x, 1024, 256, m.long).abs(), (3000,)),
    "short-time and back": (
        lambda m, x: torch.istft(stft(x, 64, 16, m.short), 64, 16, window=m.short, length=400), (400,),
    ),
    "a product added": (
        lambda m, x: torch.view_as_real(
            torch.addcmul(torch.fft.rfft(x), torch.fft.rfft(x.flip(-1)), m.filter, value=0.5 - 2j)
        ), (3, 16),
    ),
    "a real product added": (lambda m, x: torch.addcmul(torch.fft.rfft(x), x[..., :9], x[..., 1:10]).abs(), (3, 16)),
    "a quotient added": (
        lambda m, x: torch.addcdiv(torch.fft.rfft(x), m.filter, torch.fft.rfft(x) + 20, value=3).imag, (3, 16),
    ),
    "a matrix product added": (
        lambda m, x: torch.baddbmm(
            torch.fft.rfft(x)[..., :4], torch.fft.rfft(x)[..., :5], torch.view_as_complex(m.modes)[0].T.expand(
                x.shape[0], 5, 4), beta=2j, alpha=0.5,
        ).real, (3, 16),
    ),
    "phase": (lambda m, x: torch.fft.rfft(x + 2).angle().cos(), (3, 16)),
    "polar": (lambda m, x: torch.view_as_real(torch.polar(x.abs(), x) * (1 + 2j) / (3 - 1j) + 2), (3, 16)),
    "divided by numbers": (
        lambda m, x: (lambda z: torch.view_as_real(z / (1 - 3j) + z / 3j + z / -4 + (2 + 1j) / z))(
            torch.complex(x.exp() + 1, x)), (3, 16),
    ),
    "the imaginary unit": (lambda m, x: (x.exp() * (x.cos() + 1j * x.sin())).imag + (1j * x).real, (3, 16)),
    "conjugates and movement": (
        lambda m, x: (lambda z: (z * z.conj().flip(-1)).transpose(1, 2).reshape(-1, 27).real)(torch.fft.rfft(x)),
        (3, 16),
    ),
    "an einsum of three": (lambda m, x: torch.einsum("bif,bjf,bf->bij", *_three(x)).imag, (3, 16)),
    "an einsum of one": (lambda m, x: torch.einsum("bif->fb", torch.fft.rfft(x)).abs().T, (3, 16)),
    "a system of equations": (lambda m, x: torch.view_as_real(torch.linalg.solve(*_system(x))), (4, 6)),
    "an inverse": (lambda m, x: torch.view_as_real(torch.linalg.inv(_system(x)[0])), (4, 6)),
    "parts put together": (
        lambda m, x: torch.cat(torch.chunk(torch.fft.rfft(x), 3, 1)[::-1], 1).unsqueeze(1).exp().real, (3, 16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_native_and_right(name: str) -> None:
    call, shape = CALLS[name]
    model = Spectral(call).eval()
    fast, exact = rt.compile(model, (torch.randn(2, *shape),), strict=True), copy.deepcopy(model).double()
    assert fast.batch.hi is None
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        want = exact(x.double()).detach()
        error = (fast(x).double() - want).abs().max()
        # Sums of n products of float32, n to 1,536, in two steps at most; the largest result is the measure.
        assert float(error) <= 64 * torch.finfo(torch.float32).eps * float(want.abs().max())


def test_a_complex_result_is_put_together_by_torch_alone() -> None:
    model = Spectral(lambda m, x: torch.fft.rfft(x)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = rt.compile(model, (torch.randn(2, 3, 16),))
    assert [line.name for line in fast.explain_lines(measure=False) if line.is_fallback] == ["complex.default"]
    for rows in (1, 2, 5, 5, 5):
        x = torch.randn(rows, 3, 16)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_real_and_imaginary_parts_are_read_where_they_lie() -> None:
    model = Spectral(lambda m, x: torch.fft.rfft(x).real.square() + torch.fft.rfft(x).imag.square()).eval()
    fast = rt.compile(model, (torch.randn(2, 3, 16),))
    assert not [
        line.what for line in fast.explain_lines(measure=False) if line.what.startswith(("concat", "rearrange"))
    ]


def test_parts_beside_a_call_that_is_not_known() -> None:
    model = Spectral(lambda m, x: torch.fft.rfft(x).real + torch.fft.rfft(x).sqrt().abs()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = rt.compile(model, (torch.randn(2, 3, 16),))
    x = torch.randn(3, 3, 16)
    torch.testing.assert_close(fast(x), model(x))


def test_a_check_of_a_cast_is_no_call_on_complex_numbers() -> None:
    """torch.export writes one for a cast to what a tensor is already."""

    class Turns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            angle = x[..., :8].tanh()
            phases = torch.polar(torch.ones_like(angle), angle)
            turned = torch.view_as_complex(x.reshape(*x.shape[:-1], 8, 2)) * phases.to(x.device)
            return torch.view_as_real(turned).flatten(-2)

    program = torch.export.export(Turns(), (torch.randn(2, 3, 16),), strict=False)
    assert any("assert_tensor" in str(node.target) for node in program.graph.nodes)
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.to.dtype_layout):
        node.replace_all_uses_with(node.args[0])  # as functionalization has it
        program.graph.erase_node(node)
    assert without_complex(program.graph)
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert not any(value.is_complex() for value in values)


def test_what_is_not_known_for_pairs_leaves_the_graph_as_it_was() -> None:
    model = Spectral(lambda m, x: torch.fft.rfft(x).acos().abs()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = rt.compile(model, (torch.randn(2, 3, 16),))
    names = [line.name for line in fast.explain_lines(measure=False)]
    assert names == ["fft_rfft.default", "acos.default", "abs.default"]
    for rows in (1, 2, 5, 5, 5):
        x = torch.randn(rows, 3, 16)
        assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize(("n", "p"), [(1, 1), (2, 1), (12, 3), (1024, 32), (1536, 32), (997, 1), (2048, 32)])
def test_two_steps_are_near_the_root(n: int, p: int) -> None:
    assert split(n) == p


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_of_float64_it_stays_torch_s_and_says_nothing(dtype: torch.dtype, capfd: pytest.CaptureFixture[str]) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x).abs()

    x = torch.randn(2, 16, dtype=dtype)
    fast = rt.compile(Spectrum().eval(), x, verify=False)
    torch.testing.assert_close(fast(x), Spectrum()(x), rtol=1e-12, atol=1e-12)
    assert capfd.readouterr().err == ""


class Phases(torch.nn.Module):
    """Of the parts of real numbers that are real: the mean and, of an even length, half the rate."""

    def __init__(self, n: int, short: bool) -> None:
        super().__init__()
        self.n, self.short = n, short
        self.register_buffer("window", torch.hann_window(n))

    def forward(self, x: Tensor) -> Tensor:
        if self.short:
            z = torch.stft(x, self.n, self.n // 2, window=self.window, return_complex=True).transpose(1, 2)
        else:
            z = torch.fft.rfft(x)
        return torch.stack([z[..., 0].angle(), z[..., self.n // 2].angle()], -1)


@pytest.mark.parametrize("short", [False, True], ids=["rfft", "stft"])
@pytest.mark.parametrize("n", [8, 16, 30, 40, 62, 64, 100, 694, 1000, 1088])
def test_the_phase_of_what_is_real_is_no_noise(n: int, short: bool) -> None:
    """By the kernel, by a matrix and by two: 0 or pi, as the sign is; rounding would make -pi of some."""
    model, shape = Phases(n, short).eval(), (5, 2 * n) if short else (5, n)
    fast = rt.compile(model, (torch.randn(shape),), strict=True)
    for _ in range(3):
        x = torch.randn(shape)
        got, want = fast(x), model(x)
        assert bool(((got == 0) | (got == torch.pi)).all())
        assert torch.equal(got, want)
