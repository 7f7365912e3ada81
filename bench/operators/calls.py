"""Functions of torch: over each dimension, of each element, of pairs, and those that move elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE = (1, 24, 40, 36)


class Operation(NamedTuple):
    """function: or a module. shapes: of its inputs, of random normal numbers."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)


_OVER: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "sum": lambda x, d: x.sum(d), "amax": lambda x, d: x.amax(d), "mean": lambda x, d: x.mean(d), "var": lambda x, d: x.var(d),
    "vector_norm": lambda x, d: torch.linalg.vector_norm(x, dim=d), "logsumexp": lambda x, d: torch.logsumexp(x, d),
}  # fmt: skip
_ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "prod": lambda x, d: x.prod(d), "argmax": lambda x, d: x.argmax(d), "softmax": lambda x, d: x.softmax(d),
    "log_softmax": lambda x, d: x.log_softmax(d), "cumsum": lambda x, d: x.cumsum(d), "cumprod": lambda x, d: x.cumprod(d),
    "cummax": lambda x, d: x.cummax(d)[0], "sort": lambda x, d: x.sort(d)[0], "argsort": lambda x, d: x.argsort(d),
    "topk": lambda x, d: x.topk(5, d)[0], "median": lambda x, d: x.median(d)[0], "kthvalue": lambda x, d: x.kthvalue(3, d)[0],
    "quantile": lambda x, d: x.quantile(0.3, dim=d), "flip": lambda x, d: x.flip(d), "roll": lambda x, d: x.roll(3, d),
    "normalize": lambda x, d: F.normalize(x, dim=d), "glu": lambda x, d: F.glu(x, d), "diff": lambda x, d: x.diff(dim=d),
    "logcumsumexp": lambda x, d: x.logcumsumexp(d), "chunks in another order": lambda x, d: torch.cat(x.chunk(4, d)[::-1], d),
    "unfold": lambda x, d: x.unfold(d, 4, 2).sum(-1), "repeat_interleave": lambda x, d: x.repeat_interleave(2, d),
    "every second": lambda x, d: x[(slice(None),) * d + (slice(None, None, 2),)] * 2,
    "stack": lambda x, d: torch.stack([x, x * 2], d + 1),
    "index_select": lambda x, d: x.index_select(d, torch.arange(0, 20, 3)),
}  # fmt: skip
_EACH = (
    "exp", "log1p", "sin", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "atan", "round", "floor", "sign", "abs", "reciprocal",
    "lgamma", "digamma", "erfinv", "acos", "sinh", "cosh", "asinh", "expm1", "log2", "i0", "sinc",
)  # fmt: skip
_OWN = ("gelu", "silu", "mish", "softplus", "hardswish", "elu", "selu", "logsigmoid")
_PAIRS: tuple[tuple[str, Callable[..., Tensor], tuple[int, ...], tuple[int, ...]], ...] = (
    ("x + y of channels", lambda x, y: (x + y).relu(), IMAGE, (1, 24, 1, 1)),
    ("x * y of positions", torch.mul, IMAGE, (1, 1, 40, 36)),
    ("x * y of rows", torch.mul, IMAGE, (1, 24, 40, 1)),
    ("x * y of columns", torch.mul, IMAGE, (1, 1, 1, 36)),
    ("outer product", lambda x, y: x[:, :, None] * y[:, None], (1, 300), (1, 400)),
    ("cdist", torch.cdist, (1, 200, 16), (1, 150, 16)),
    ("Manhattan distances", lambda x, y: torch.cdist(x, y, p=1.0), (1, 200, 16), (1, 150, 16)),
    ("Chebyshev distances", lambda x, y: torch.cdist(x, y, p=float("inf")), (1, 200, 16), (1, 150, 16)),
    ("distances of points", torch.cdist, (1, 200, 3), (1, 150, 3)),
    ("nearest codes", lambda x, c: ((x[:, :, None] - c) ** 2).sum(-1).argmin(-1), (1, 64, 64), (512, 64)),
    ("kernel of centers", lambda x, c: torch.exp(-0.5 * ((x[:, :, None] - c) ** 2).mean(-1)), (1, 64, 8), (200, 8)),
    (
        "scatter_add",
        lambda x, i: torch.zeros_like(x).scatter_add(2, (i * 10).long() % 400, x),
        (1, 24, 400),
        (1, 24, 400),
    ),
    ("grid_sample", lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), IMAGE, (1, 30, 30, 2)),
    ("solve", lambda x, y: torch.linalg.solve(x + 20 * torch.eye(24), y), (1, 24, 24), (1, 24, 3)),
)
_PRODUCTS = (
    ("bij,bkj->bik", (1, 60, 70), (1, 50, 70)), ("bhid,bhjd->bhij", (1, 4, 60, 16), (1, 4, 60, 16)),
    ("bhij,bjhd->bihd", (1, 4, 60, 60), (1, 60, 4, 16)), ("bnc,bncd->bnd", (1, 100, 8), (1, 100, 8, 12)),
    ("bijk,bjk->bi", (1, 50, 20, 30), (1, 20, 30)), ("bcn,bcm->bnm", (1, 16, 100), (1, 16, 100)),
    ("bi,ij->bj", (1, 500), (500, 300)), ("bij,bjk->bik", (1, 200, 3), (1, 3, 200)),
    ("bhij,bhjk->bhik", (1, 8, 50, 32), (1, 8, 32, 50)),
)  # fmt: skip


def _turned(function: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """Of the same elements, channels last."""
    return lambda x: function(x.permute(0, 2, 3, 1))


def operations() -> Iterator[Operation]:
    for name, over in _OVER.items():
        for dims in (d for count in (1, 2, 3) for d in combinations((1, 2, 3), count)):
            for how, turned in (("", False), (", channels last", True)):
                call = lambda x, over=over, dims=dims: over(x, dims)  # noqa: E731
                yield Operation(f"{name} over {dims}{how}", _turned(call) if turned else call)
    for name, along in _ALONG.items():
        for d in (1, 2, 3):
            yield Operation(f"{name} along {d}", lambda x, along=along, d=d: along(x, d))
    for name in _EACH:
        each = getattr(torch, name)
        yield Operation(name, lambda x, each=each: each(x.abs() % 0.9 + 0.01))
    for name in _OWN:
        yield Operation(name, getattr(F, name))
    for name, pair, a, b in _PAIRS:
        yield Operation(name, pair, (a, b))
    for equation, a, b in _PRODUCTS:
        yield Operation(f"einsum {equation}", lambda x, y, e=equation: torch.einsum(e, x, y), (a, b))
    for n in (100, 1000, 4000):
        yield Operation(f"sort of {n}", lambda x: x.sort(-1)[0], ((1, n),))
        yield Operation(f"median of {n}", lambda x: x.median(-1)[0], ((1, n),))
    yield Operation("pairs turned", lambda x: torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2))
    yield Operation("rfft", lambda x: torch.fft.rfft(x).abs(), ((1, 24, 512),))
    yield Operation(
        "stft", lambda x: torch.stft(x, 256, 64, window=torch.hann_window(256), return_complex=True).abs(), ((1, 4000),)
    )
    yield Operation("svdvals", torch.linalg.svdvals, ((1, 4, 12, 8),))
