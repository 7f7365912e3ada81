"""Results of other shapes than [batch, features]: a file gives them as the compiled model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt

ENDS: dict[str, Callable[[Tensor], Any]] = {
    "as it is": lambda y: y,
    "first": lambda y: y[0],
    "one number": lambda y: y.sum(),
    "one element": lambda y: y[0, 0] * 2.0,
    "more dimensions": lambda y: y[:, None, :, None],
    "squeezed": lambda y: y[:1].squeeze(0).tanh(),
    "split": lambda y: (y[:, :3].relu(), y[:, 3:].sigmoid()),
    "folded": lambda y: y.reshape(y.shape[0], 2, 5),
    "all of it": lambda y: y.flatten(),
}
STARTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "rows": ((3, 7), lambda x: x),
    "one row": ((1, 7), lambda x: x),
    "no batch": ((7,), lambda x: x[None]),
    "image without a batch": ((7, 4, 4), lambda x: x.mean((1, 2))[None]),
}


class Ends(nn.Module):
    def __init__(self, start: str, end: str) -> None:
        super().__init__()
        self.layer, self.start, self.end = nn.Linear(7, 10), STARTS[start][1], ENDS[end]

    def forward(self, x: Tensor) -> Any:
        return self.end(self.layer(self.start(x)))


@pytest.mark.filterwarnings("ignore::rtaccel.core.errors.FallbackWarning")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("start", STARTS)
def test_a_file_gives_the_shapes_of_the_model(start: str, end: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(STARTS[start][0], generator=generator)
    model = Ends(start, end).eval()
    fast = rt.compile(model, (x,))
    with torch.no_grad():
        want = pytree.tree_leaves(model(x))
    if start == "image without a batch" and end == "first":
        path = rt.save(fast, tmp_path / "m.rta")  # the result is what a stage writes, seen without its first dimension
    else:
        path = _saved(fast, tmp_path / "m.rta")
    loaded: Any = fast if path is None else rt.load(path)
    for got in (fast(x), loaded(x)):
        leaves = pytree.tree_leaves(got)
        assert [tuple(t.shape) for t in leaves] == [tuple(t.shape) for t in want]
        for a, b in zip(leaves, want):
            torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-5, atol=1e-6)


def _saved(fast: Any, path: Path) -> Path | None:
    """None where a result is no value of the plan, which is said."""
    refused = "results that are not computed as they are returned"
    try:
        return rt.save(fast, path)
    except rt.UnsupportedProblem as error:
        if refused not in str(error):
            raise
        return None
