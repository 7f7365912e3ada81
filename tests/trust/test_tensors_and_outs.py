"""Tensors of every kind in, and outs that share memory: the right result, or an error by name with nothing written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Both(nn.Module):
    """Returns what it was given, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lin(x), x


def linear(scheme: str = "float32") -> rt.CompiledModel:
    torch.manual_seed(0)
    return rt.compile(nn.Linear(4, 4).eval(), (torch.randn(3, 4),), scheme)


NEGATED: dict[str, Callable[[Tensor], Tensor]] = {
    "negated view": lambda x: (-x)._neg_view(),
    "imaginary part of a conjugate": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "one element of it": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag[:1, :1].expand(3, 4),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "offset": lambda x: torch.cat([x.reshape(-1)[:1], x.reshape(-1)])[1:].view(3, 4),
    "transposed": lambda x: x.T.contiguous().T,
    "parameter": lambda x: nn.Parameter(x),
    "requires grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("kind", NEGATED)
def test_every_kind_of_tensor_is_read_rightly(kind: str, scheme: str) -> None:
    fast, x = linear(scheme), torch.randn(3, 4)
    given = NEGATED[kind](x)
    want = fast(given.detach().resolve_neg().contiguous().clone())
    y = torch.empty(3, 4)
    assert torch.equal(fast(given), want)
    assert torch.equal(fast.run(given, out=y), want)
    if given.is_neg() or not given.is_contiguous():
        with pytest.raises(rt.ShapeError):
            fast.bind(given, out=y)
    else:
        y.zero_()
        fast.bind(given, out=y)()
        assert torch.equal(y, want)


def test_the_negative_bit_is_found_without_asking_torch() -> None:
    from rtaccel import _native

    linear()
    assert _native.knows_negative_bit()


def test_a_stream_and_an_out_with_the_negative_bit() -> None:
    live = rt.stream(nn.GRU(4, 4, batch_first=True).eval(), torch.randn(1, 4))
    x = torch.randn(1, 4)
    want = live.step(x)
    live.reset()
    assert torch.equal(live.step((-x)._neg_view()), want)
    fast, y = linear(), torch.zeros(3, 4)
    x = torch.randn(3, 4)
    fast.run(x, out=y._neg_view())
    assert torch.equal(-y, fast(x))
    with pytest.raises(rt.ShapeError):
        fast.bind(x, out=y._neg_view())


def test_an_out_that_is_the_input() -> None:
    model = Both().eval()
    x = torch.randn(3, 4)
    fast, want = rt.compile(model, (x,)), model(x)
    given, z = x.clone(), torch.empty(3, 4)
    fast.run(given, out=(given, z))
    torch.testing.assert_close(given, want[0].detach())
    assert torch.equal(z, x)


def overlapping() -> dict[str, tuple[Tensor, Tensor]]:
    buffer, wide = torch.zeros(5, 4), torch.zeros(3, 8)
    return {
        "the same": (buffer[:3], buffer[:3]),
        "rows": (buffer[:3], buffer[2:]),
        "columns": (wide[:, :4], wide[:, 3:7]),
    }


@pytest.mark.parametrize("name", overlapping())
def test_outs_that_share_memory_are_refused(name: str) -> None:
    model = Both().eval()
    x = torch.randn(3, 4)
    fast = rt.compile(model, (x,))
    a, b = overlapping()[name]
    for call in (fast.run, fast.bind):
        with pytest.raises(rt.ShapeError, match=r"share memory|overlaps"):
            call(x, out=(a, b))
    assert not a.any() and not b.any()


def test_outs_side_by_side_in_one_buffer_are_no_overlap() -> None:
    model, wide = Both().eval(), torch.zeros(3, 8)
    x = torch.randn(3, 4)
    rt.compile(model, (x,)).run(x, out=(wide[:, ::2], wide[:, 1::2]))
    torch.testing.assert_close(wide[:, ::2], model(x)[0].detach())
    assert torch.equal(wide[:, 1::2], x)


def test_an_expanded_out_is_refused() -> None:
    fast, row = linear(), torch.zeros(1, 4)
    with pytest.raises(rt.ShapeError, match="twice in memory"):
        fast.run(torch.randn(3, 4), out=row.expand(3, 4))
    with pytest.raises(rt.ShapeError):
        fast.bind(torch.randn(3, 4), out=row.expand(3, 4))
    assert not row.any()


class OnlyViews(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 2).T


def test_a_model_of_views_checks_its_shapes() -> None:
    fast = rt.compile(OnlyViews().eval(), (torch.randn(1, 4),))
    for shape in ((1, 4), (5, 4)):
        x = torch.randn(*shape)
        try:
            assert torch.equal(fast(x), x.reshape(-1, 2).T)
        except rt.ShapeError:
            assert shape != (1, 4)
    with pytest.raises(rt.ShapeError):
        fast(torch.randn(1, 6))
    with pytest.raises(rt.ShapeError):
        fast(torch.randn(1, 4).double())


class ScanFirst(nn.Module):
    """A call that falls back to PyTorch stands first."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(torch.special.airy_ai(x.view(-1, 4)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "wrong",
    [torch.randn(3, 4).double(), torch.randn(3, 4).half(), torch.randn(3, 4, device="meta"), torch.ones(3, 4, dtype=torch.int64),
     torch.randn(3, 5), torch.randn(4), "text", None, 3.0],
    ids=lambda w: f"{w.dtype}{list(w.shape)}" if isinstance(w, Tensor) else repr(w),
)  # fmt: skip
def test_what_stays_torchs_is_checked_as_well(wrong: object) -> None:
    model = ScanFirst().eval()
    fast = rt.compile(model, (torch.randn(3, 4),))
    with pytest.raises(rt.ShapeError):
        fast(wrong)
    x = torch.randn(4, 3).T
    assert not x.is_contiguous()
    torch.testing.assert_close(fast(x), model(x.contiguous()).detach())


def test_numpy_and_dlpack() -> None:
    fast, x = linear(), torch.randn(3, 4)
    want, array = fast(x), x.numpy().copy()

    class Exports:
        def __dlpack__(self, **options: object) -> object:
            return x.__dlpack__()

        def __dlpack_device__(self) -> object:
            return x.__dlpack_device__()

    assert torch.equal(fast(array), want) and torch.equal(fast(Exports()), want)
    out = np.zeros((3, 4), dtype=np.float32)
    assert fast.run(array, out=out) is out and np.array_equal(out, want.numpy())
    step = fast.bind(array, out=out)
    array[:] = 0.5
    step()
    assert np.array_equal(out, fast(torch.full((3, 4), 0.5)).numpy())
    live = rt.stream(nn.GRU(4, 4, batch_first=True).eval(), torch.randn(1, 4))
    row = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    got = live.step(row)
    live.reset()
    assert torch.equal(got, live.step(torch.from_numpy(row)))
    out.flags.writeable = False
    with pytest.raises(rt.ShapeError, match="read-only"):
        fast.run(x, out=out)
    for wrong in (array.astype(np.float64), np.zeros((3, 5), np.float32), np.array(["a"])):
        with pytest.raises(rt.ShapeError):
            fast(wrong)


def test_arguments_too_many_or_too_few() -> None:
    fast, x = linear(), torch.randn(3, 4)
    for call in (lambda: fast(), lambda: fast(x, x), lambda: fast(x, other=x), lambda: fast((x,)), lambda: fast([x])):
        with pytest.raises(rt.ShapeError) as caught:
            call()
        assert "TreeSpec" not in str(caught.value)
    for call in (
        lambda: fast.run(out=x.clone()),
        lambda: fast.run(x, x, out=x.clone()),
        lambda: fast.bind(out=x.clone()),
    ):
        with pytest.raises(rt.ShapeError):
            call()
    assert fast(input=x).shape == (3, 4)


def test_a_result_that_is_the_input_is_a_fresh_tensor() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = rt.compile(Both().eval(), (torch.randn(3, 4),))(x)[1]
    assert torch.equal(y, x) and y.data_ptr() != x.data_ptr() and not y.requires_grad
