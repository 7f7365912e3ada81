"""Calls that are taken apart into others: natively, as torch has them, with other batches too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt
from tests.support.networks.call import Call, CallOfTwo

TABLE = torch.randn(5, 9)
PLACES = torch.tensor([[0, 2, 2, 1, 0, 2], [1, 1, 0, 2, 2, 0], [2, 2, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2]])

CALLS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "cdist": (lambda x: torch.cdist(x, x[:, :3] + 1), (5, 4)),
    "cdist, one": (lambda x: torch.cdist(x, x.flip(1), p=1), (5, 4)),
    "cdist, largest": (lambda x: torch.cdist(x, x.flip(1), p=float("inf")), (5, 4)),
    "cdist, three": (lambda x: torch.cdist(x, TABLE[:, :4], p=3), (5, 4)),
    "quantile": (lambda x: torch.quantile(x, 0.3, dim=1), (7, 3)),
    "quantiles": (lambda x: torch.quantile(x, torch.tensor([0.0, 0.25, 0.9, 1.0]), dim=-1, keepdim=True), (3, 7)),
    "quantile, lower": (lambda x: torch.quantile(x, 0.4, dim=-1, interpolation="lower"), (3, 7)),
    "quantile, higher": (lambda x: torch.quantile(x, 0.4, dim=-1, keepdim=True, interpolation="higher"), (3, 7)),
    "quantile, midpoint": (lambda x: torch.quantile(x, torch.tensor(0.4), dim=-1, interpolation="midpoint"), (3, 7)),
    "fold": (lambda x: F.fold(x.reshape(-1, 8, 6), (5, 4), (2, 2), stride=(2, 1)), (48,)),
    "fold, padded": (lambda x: F.fold(x.reshape(-1, 9, 12), (4, 5), (3, 3), padding=(1, 1), stride=(1, 2)), (108,)),
    "fold, frames": (lambda x: F.fold(x, (1, 20), (1, 5), stride=(1, 3)), (5, 6)),
    "fold, apart": (lambda x: F.fold(x, (1, 21), (1, 2), stride=(1, 4)), (2, 5)),
    "there and back": (lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 5), 3, padding=1), (2, 6, 5)),
    "put by truth": (lambda x: _assigned(x, x > 0.5, 0.0), (3, 4)),
    "put rows by truth": (lambda x: _assigned(x, x[..., 0] > 0, TABLE[0, :4]), (3, 4)),
    "einsum of one": (lambda x: torch.einsum("bhc->bch", x), (3, 4)),
    "einsum of one, a sum": (lambda x: torch.einsum("b...c->bc", x), (3, 2, 4)),
    "scatter mean": (lambda x: _scattered(x, "mean", False), (4, 6)),
    "scatter mean with itself": (lambda x: _scattered(x, "mean", True), (4, 6)),
    "scatter max of others": (lambda x: _scattered(x, "amax", False), (4, 6)),
    "scatter min of others": (lambda x: _scattered(x, "amin", False), (4, 6)),
    "scatter sum of others": (lambda x: _scattered(x, "sum", False), (4, 6)),
    "scatter product of others": (lambda x: _scattered(x, "prod", False), (4, 6)),
    "fake quantized": (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 3, -128, 127), (40,)),
    "fake quantized channels": (
        lambda x: torch.fake_quantize_per_channel_affine(
            x, TABLE[0, :4].abs() + 0.1, torch.tensor([0, 3, -2, 1], dtype=torch.int32), 1, -8, 7
        ),
        (4, 6),
    ),
    "digamma": (lambda x: torch.digamma(3 * x), (40,)),
    "rrelu": (lambda x: F.rrelu(x), (9,)),
    "mean of what is known": (lambda x: torch.nanmean(torch.where(x > 0, x, float("nan")), 1), (30, 2)),
    "where of numbers": (lambda x: (torch.where(x > 0, 1.0, -0.5), torch.where(x > 0, 3, 0)), (9,)),
    "nothing left over": (lambda x: torch.cat([x[..., :6], x[..., 6:]], -1), (3, 6)),
    "where the largest of a window are": (lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True), (4, 11)),
    "of windows of an image": (lambda x: F.max_pool2d((2 * x).round(), (3, 2), 2, (1, 0), return_indices=True), (3, 7, 6)),
    "of windows that reach out": (lambda x: F.max_pool2d(x, 3, 2, 1, 2, ceil_mode=True, return_indices=True), (2, 9, 8)),
    "unpooled": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (3, 6, 4)),
    "unpooled line": (lambda x: F.max_unpool1d(*F.max_pool1d(x * 2, 3, return_indices=True), 3), (3, 9)),
    "diagonal above": (lambda x: torch.diag_embed(x, 2), (3, 4)),
    "diagonal below, in front": (lambda x: torch.diag_embed(x, -1, 1, 3), (3, 4)),
    "diagonal, turned": (lambda x: torch.diag_embed(x, 1, -1, 1), (4,)),
    "signs": (lambda x: (torch.signbit(x), torch.signbit((x > 0) * -x)), (9,)),
    "an index for each sample into a constant": (
        lambda x: TABLE.gather(1, (x > 0).long().T + torch.arange(5)[:, None]).T, (5,)
    ),
}  # fmt: skip


def _assigned(x: Tensor, mask: Tensor, values: Any) -> Tensor:
    x = x.clone()
    x[mask] = values
    return x


def _scattered(x: Tensor, reduce: str, include: bool) -> Tensor:
    index = PLACES.expand(x.shape[0], -1, -1)
    return torch.zeros(x.shape[0], 4, 5).scatter_reduce(2, index, x, reduce, include_self=include)


@pytest.mark.parametrize("name", CALLS)
def test_native_and_right(name: str) -> None:
    call, shape = CALLS[name]
    model = Call(call).eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    fixed = name.startswith("fake quantized")  # torch.export cannot leave its batch open
    for rows in (2,) if fixed else (1, 2, 5):
        x = torch.randn(rows, *shape)
        want, got = model(x), fast(x)
        for w, g in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got))):
            # Sums of a few terms in another order; distances, whose terms are rounded apart; digamma near its poles
            torch.testing.assert_close(g, w, rtol=2e-5, atol=4e-6, equal_nan=True)


def test_quantiles_of_nan() -> None:
    model = Call(lambda x: torch.quantile(x, 0.5, dim=1)).eval()
    fast = rt.compile(model, torch.randn(2, 7), strict=True)
    x = torch.randn(3, 7)
    x[1, 4], x[2, 1] = float("nan"), float("inf")
    torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=0, equal_nan=True)


def test_digamma_at_its_poles() -> None:
    model = Call(torch.digamma).eval()
    x = torch.tensor([[0.0, -0.0, -1.0, -7.0, float("inf"), float("nan"), 1e-3, 30.0]])
    fast = rt.compile(model, x, strict=True, verify=False)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=0, equal_nan=True)


class Filters(nn.Module):
    """Weights for each sample, which the code joins with the groups of one convolution."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.hyper = rank, nn.Linear(5, 6 * 2 * 3**rank)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        batch, size = x.shape[0], x.shape[2:]
        weight = self.hyper(condition).reshape(batch * 6, 2, *[3] * self.rank)
        joined = x.reshape(1, batch * 4, *size)
        conv = F.conv1d if self.rank == 1 else F.conv2d
        y = conv(joined, weight, padding=2, stride=2, dilation=2, groups=2 * batch)  # type: ignore[operator]
        return y.reshape(batch, 6, *y.shape[2:])


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_with_computed_weights(rank: int, batch: int) -> None:
    model = Filters(rank).eval()
    given = torch.randn(batch, 4, *[9, 8][:rank]), torch.randn(batch, 5)
    fast = rt.compile(model, given, strict=True)
    torch.testing.assert_close(fast(*given), model(*given), rtol=1e-5, atol=1e-5)


def test_a_plain_convolution_with_a_weight_of_another_input() -> None:
    model = CallOfTwo(lambda x, w: F.conv1d(x, w, stride=2)).eval()
    given = torch.randn(1, 3, 20), torch.randn(4, 3, 5)
    torch.testing.assert_close(rt.compile(model, given, strict=True)(*given), model(*given), rtol=1e-5, atol=1e-5)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("adjacency", (TABLE.T @ TABLE).relu().to_sparse())
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.adjacency, self.layer(x))


def test_a_sparse_buffer_is_a_dense_constant() -> None:
    model = Sparse().eval()
    x = torch.randn(9, 4)
    torch.testing.assert_close(rt.compile(model, x, strict=True)(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_call_that_torch_takes_apart_into_itself_stays() -> None:
    """It was taken apart until the stack was full, which took minutes."""

    def traces(x: Tensor) -> Tensor:
        return torch.einsum("bii->b", (4 * x).long()) + torch.special.airy_ai(x[:, 0, 0])

    model = Call(traces).eval()
    with pytest.warns(UserWarning, match="einsum"):
        fast = rt.compile(model, torch.randn(2, 3, 3))
    x = torch.randn(4, 3, 3)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
