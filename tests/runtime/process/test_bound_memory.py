"""Bound calls and the memory of their tensors: whatever becomes of a tensor, no call reads or writes memory that others have."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

ROWS, IN, OUT = 512, 32, 16


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, OUT)).eval()


def _compiled(x: Tensor, y: Tensor, folder: Path) -> Callable[[], None]:
    return rt.compile(model(), (torch.randn(1, IN),)).bind(x, out=y)


def _stream(x: Tensor, y: Tensor, folder: Path) -> Callable[[], None]:
    return rt.stream(model(), torch.randn(ROWS, IN)).bind(x, out=y)


def _loaded(x: Tensor, y: Tensor, folder: Path) -> Callable[[], None]:
    rt.save(rt.compile(model(), (torch.randn(1, IN),)), folder / "model.rta")
    return rt.load(folder / "model.rta").bind(x, out=y)


def _cascade(x: Tensor, y: Tensor, folder: Path) -> Callable[[], None]:
    fast = rt.compile(model(), (torch.randn(1, IN),))
    return rt.Cascade([fast, fast], exit=[0.9]).bind(x, out=y)


BOUND = {"compiled": _compiled, "stream": _stream, "loaded": _loaded, "cascade": _cascade}


def swap(a: Tensor, b: Tensor) -> None:
    with contextlib.suppress(RuntimeError):  # torch refuses where another library holds one of them
        torch.utils.swap_tensors(a, b)


OTHER_MEMORY: dict[str, Callable[[Tensor, Tensor], object]] = {
    "data": lambda x, y: setattr(x, "data", torch.zeros_like(x)),
    "set": lambda x, y: x.set_(torch.zeros_like(x)),  # type: ignore[call-overload]
    "swapped": lambda x, y: swap(x, torch.zeros_like(x)),
    "data of out": lambda x, y: setattr(y, "data", torch.zeros(1)),
}
RESIZED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "larger": lambda x, y: x.resize_(4 * ROWS, IN),
    "storage": lambda x, y: x.untyped_storage().resize_(0),
    "larger out": lambda x, y: y.resize_(4 * ROWS, OUT),
}


@pytest.mark.parametrize("bound", BOUND)
@pytest.mark.parametrize("way", OTHER_MEMORY)
def test_a_tensor_that_gets_other_memory(way: str, bound: str, tmp_path: Path) -> None:
    x, y = torch.randn(ROWS, IN), torch.empty(ROWS, OUT)
    step = BOUND[bound](x, y, tmp_path)
    step()
    want = y.clone()
    OTHER_MEMORY[way](x, y)
    gc.collect()
    others = [torch.full((ROWS, IN), 7e20) for _ in range(20)] + [torch.zeros(ROWS, OUT) for _ in range(20)]
    y.zero_()
    step()
    assert torch.equal(y, want) == (way != "data of out")
    assert all(bool((o == 7e20).all()) for o in others[:20]) and not any(bool(o.any()) for o in others[20:])


@pytest.mark.parametrize("bound", BOUND)
@pytest.mark.parametrize("way", RESIZED)
def test_bound_memory_is_not_resized(way: str, bound: str, tmp_path: Path) -> None:
    x, y = torch.randn(ROWS, IN), torch.empty(ROWS, OUT)
    step = BOUND[bound](x, y, tmp_path)
    step()
    want = y.clone()
    with pytest.raises(RuntimeError, match="not resizable"):
        RESIZED[way](x, y)
    step()
    assert torch.equal(y[:ROWS], want)


def test_bound_tensors_of_any_dtype_and_part() -> None:
    """Memory is held by its bytes: of any dtype, of a part of a tensor, and of none."""
    model = nn.Sequential(nn.Linear(8, 8)).eval().to(torch.bfloat16)
    whole = torch.randn(6, 8).to(torch.bfloat16)
    fast = rt.compile(model, (whole[:1],))
    for rows in (slice(2, 4), slice(0, 0)):
        x, y = whole[rows], torch.empty_like(whole)[rows]
        fast.bind(x, out=y)()
        torch.testing.assert_close(y, model(x), rtol=0.02, atol=0.02)
