"""Calls along a dimension of a tensor that has none: torch takes 0 and -1 for one of a single element."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtaccel as rt
from tests.support.networks.call import CallOfTwo

AT = torch.tensor(0)
IN = torch.tensor([0])

CALLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda t, d: t.sum(d), "mean": lambda t, d: t.mean(d, keepdim=True), "amax": lambda t, d: t.amax(d),
    "amin": lambda t, d: t.amin((d,), keepdim=True), "prod": lambda t, d: t.prod(d), "any": lambda t, d: (t > 0).any(d) * 1.0,
    "all": lambda t, d: (t > 0).all(d) * 1.0, "max": lambda t, d: t.max(d)[0], "min": lambda t, d: t.min(d).values,
    "max and place": lambda t, d: sum(t.max(d)), "argmax": lambda t, d: t.argmax(d) * 1.0,
    "aminmax": lambda t, d: t.aminmax(dim=d)[0], "logsumexp": lambda t, d: t.logsumexp(d), "softmax": lambda t, d: t.softmax(d),
    "log_softmax": lambda t, d: t.log_softmax(d), "softmin": lambda t, d: F.softmin(t, d),
    "normalize": lambda t, d: F.normalize(t, dim=d), "cosine": lambda t, d: F.cosine_similarity(t, t + 1, dim=d),
    "var": lambda t, d: t.var(d, correction=0), "std_mean": lambda t, d: torch.std_mean(t, d, correction=0)[1],
    "vector_norm": lambda t, d: torch.linalg.vector_norm(t, dim=d), "norm": lambda t, d: t.norm(dim=d),
    "cumsum": lambda t, d: t.cumsum(d), "cumprod": lambda t, d: t.cumprod(d), "cummax": lambda t, d: t.cummax(d)[0],
    "logcumsumexp": lambda t, d: t.logcumsumexp(d), "sort": lambda t, d: t.sort(d)[0], "topk": lambda t, d: t.topk(1, d)[0],
    "argsort": lambda t, d: t.argsort(d) * 1.0, "kthvalue": lambda t, d: t.kthvalue(1, d)[0],
    "median": lambda t, d: t.median(d)[0], "mode": lambda t, d: t.mode(d)[0], "quantile": lambda t, d: t.quantile(0.5, dim=d),
    "nansum": lambda t, d: t.nansum(d), "nanmean": lambda t, d: t.nanmean(d), "count": lambda t, d: t.count_nonzero(d) * 1.0,
    "index_select": lambda t, d: t.index_select(d, IN), "gather": lambda t, d: t.gather(d, AT),
    "scatter": lambda t, d: t.scatter(d, AT, 2.0), "scatter_add": lambda t, d: t.scatter_add(d, AT, t),
    "index_add": lambda t, d: t.index_add(d, IN, t), "index_fill": lambda t, d: t.index_fill(d, IN, 3.0),
    "squeeze": lambda t, d: t.squeeze(d), "squeeze of several": lambda t, d: t.squeeze((d,)),
    "transpose": lambda t, d: t.transpose(d, 0), "flip": lambda t, d: t.flip(d), "unfold": lambda t, d: t.unfold(d, 1, 1),
    "unsqueeze": lambda t, d: t.unsqueeze(d), "movedim": lambda t, d: t.movedim(d, 0), "flatten": lambda t, d: t.flatten(d),
    "masked": lambda t, d: torch.masked.amax(t, d),
}  # fmt: skip

PLACES: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[..., Tensor]]] = {
    "an input": lambda call: lambda x, t: x * call(t),
    "computed": lambda call: lambda x, t: x * call(t * 2 + x[0, 0]),
    "a result": lambda call: lambda x, t: call(t * 2),
}
"""What the number is, or becomes."""


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str, dim: int) -> None:
    x, t = torch.randn(2, 3), torch.tensor(-1.5)
    for place, put in PLACES.items():
        model = CallOfTwo(put(lambda t: CALLS[name](t, dim))).eval()
        with torch.no_grad():
            want = model(x, t)
        got = rt.compile(model, (x, t))(x, t)
        torch.testing.assert_close(got, want, equal_nan=True, msg=lambda said, place=place: f"{place}: {said}")
