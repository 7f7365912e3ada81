"""The native way into a compiled model: the same results, hooks, errors and lifetimes as the methods it stands for."""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel


def compiled() -> tuple[CompiledModel, Tensor, Tensor]:
    x = torch.randn(3, 5)
    model = nn.Linear(5, 4).eval()
    with torch.no_grad():
        return cast(CompiledModel, rt.compile(model, (x,))), x, model(x)


def test_the_three_ways_agree() -> None:
    fast, x, wanted = compiled()
    for call in (fast, lambda x: fast.run(x, out=torch.full((3, 4), torch.nan)), fast.forward):
        torch.testing.assert_close(call(x), wanted)
    torch.testing.assert_close(fast(x=x) if "x" in fast._argument_names else fast(input=x), wanted)
    kept_run, kept_call = fast.run, fast.__call__
    out = torch.full((3, 4), torch.nan)
    assert kept_run(x, out=out) is out and type(fast).run(fast, x, out=out) is out
    torch.testing.assert_close(kept_call(x), wanted)
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("where", ["forward", "pre", "every forward", "every pre"])
def test_hooks_are_called(where: str) -> None:
    fast, x, wanted = compiled()
    seen: list[nn.Module] = []

    def hook(module: nn.Module, *_: Any) -> None:
        seen.append(module)

    register: dict[str, Callable[..., Any]] = {
        "forward": fast.register_forward_hook,
        "pre": fast.register_forward_pre_hook,
        "every forward": register_module_forward_hook,
        "every pre": register_module_forward_pre_hook,
    }
    handle = register[where](hook)
    try:
        torch.testing.assert_close(fast(x), wanted)
        assert seen == [fast]
        fast.load_state_dict(fast.state_dict())  # a new plan stands under the same hooks
        fast(x)
        assert seen == [fast, fast]
    finally:
        handle.remove()
    fast(x)
    assert seen == [fast, fast]


def test_a_hook_that_refers_to_the_model_does_not_keep_it() -> None:
    fast, x, _ = compiled()

    def register(model: CompiledModel) -> None:
        model.register_forward_hook(lambda *_: None if model.weight_bytes else 0)

    register(fast)
    fast.again = fast.run  # type: ignore[assignment]
    fast(x)
    gone = weakref.ref(fast)
    del fast
    gc.collect()
    assert gone() is None


def test_nothing_is_kept_from_calls() -> None:
    fast, x, _ = compiled()
    out = torch.empty(3, 4)
    before = sys.getrefcount(x), sys.getrefcount(out), sys.getrefcount(fast)
    for _ in range(100):
        fast(x)
        fast.run(x, out=out)
        with pytest.raises(rt.ShapeError):
            fast(x[:, :3])
        with pytest.raises(rt.ShapeError):
            fast.run(x, out=out[:2])
    gc.collect()
    assert (sys.getrefcount(x), sys.getrefcount(out), sys.getrefcount(fast)) == before


def test_what_does_not_fit_is_named_by_the_method_behind() -> None:
    fast, x, wanted = compiled()
    with pytest.raises(TypeError, match="out"):
        fast.run(x)  # type: ignore[call-arg]
    with pytest.raises(rt.ShapeError, match="by name"):
        fast(x, gain=2)
    with pytest.raises(rt.ShapeError):
        fast()
    with pytest.raises(rt.ShapeError):
        fast(x, x)
    strided = torch.randn(5, 3).t()
    torch.testing.assert_close(fast(strided), fast(strided.contiguous()))
    out = torch.empty(4, 3).t()
    torch.testing.assert_close(fast.run(x, out=out), wanted)


def test_it_looks_like_the_method() -> None:
    fast, _, _ = compiled()
    assert list(inspect.signature(fast.run).parameters) == ["inputs", "out"]
    assert list(inspect.signature(CompiledModel.run).parameters) == ["self", "inputs", "out"]
    assert fast.run.__name__ == "run" and (fast.run.__doc__ or "").startswith("Computes into `out`")
    assert fast.run.__self__ is fast  # type: ignore[attr-defined]


def test_a_stream_steps_through_it() -> None:
    model = nn.GRU(3, 4, batch_first=True).eval()
    live = rt.stream(model, torch.randn(1, 3))
    window = torch.randn(1, 6, 3)
    with torch.no_grad():
        wanted = model(window)[0]
    got = torch.stack([live.step(window[:, t]) for t in range(6)], 1)
    torch.testing.assert_close(got, wanted)
    with pytest.raises(rt.ShapeError):
        live.step(torch.randn(1, 4))
