"""Forms of models that are usual and were refused, each against the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Body(nn.Module):
    def __init__(self, call: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any) -> Any:
        return self.call(self, *args)


def recurrent(kind: type[nn.Module], layers: int, both: bool, read: Callable[[Tensor], Tensor]) -> nn.Module:
    """A classifier that reads final states and not y."""
    memory = kind(6, 8, layers, bidirectional=both, batch_first=True)

    def call(m: Any, x: Tensor) -> Tensor:
        states = m.memory(x)[1]
        return m.head(read(states[0] if isinstance(states, tuple) else states))

    return Body(call, memory=memory, head=nn.Linear(8, 3))


def with_shared_attributes() -> nn.Module:
    """What copy.deepcopy refuses, and what cannot change."""
    model = Body(lambda m, x: m.turn(m.layer(x)) * m.library.pi, layer=nn.Linear(4, 3))
    model.turn, model.library = staticmethod(torch.neg), math
    return model


WINDOW = (torch.randn(3, 5, 6),)
ROWS = (torch.randn(3, 4),)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "one tensor joined": (lambda: Body(lambda m, x: torch.cat([m.layer(x)], 0) * 2, layer=nn.Linear(4, 3)), ROWS),
    "padding that shifts everything out": (
        lambda: Body(lambda m, x: m.layer(x) + nn.functional.pad(x, (4, -4), value=2.0).flatten(1)[:, :3], layer=nn.Linear(4, 3)),
        ROWS,
    ),
    "attributes that are shared by copies": (with_shared_attributes, ROWS),
    "all samples by their number": (lambda: Body(lambda m, x: m.layer(x)[: len(x)] * 2, layer=nn.Linear(4, 3)), ROWS),
    **{
        f"{kind.__name__} {layers} {'both ' if both else ''}{what}": (
            lambda kind=kind, layers=layers, both=both, read=read: recurrent(kind, layers, both, read), WINDOW,
        )
        for kind in (nn.LSTM, nn.GRU)
        for layers in (1, 2, 3)
        for both in (False, True)
        for what, read in (("last", lambda h: h[-1]), ("first", lambda h: h[0]), ("sum", lambda h: h[-1] + h[0]))
    },
    "17 results": (lambda: Body(lambda m, x: tuple(m.a(x) * i for i in range(17)), a=nn.Linear(4, 4)), ROWS),
    "17 parts": (lambda: Body(lambda m, x: torch.cat([m.a(x) * i for i in range(17)], -1), a=nn.Linear(4, 4)), ROWS),
    "17 inputs": (
        lambda: Body(lambda m, *x: torch.cat([m.a(t) for t in x], -1), a=nn.Linear(4, 4)),
        tuple(torch.randn(3, 4) for _ in range(17)),
    ),
    "None among results": (lambda: Body(lambda m, x: (m.a(x), None, 3), a=nn.Linear(4, 4)), ROWS),
    "a list and a dict": (lambda: Body(lambda m, x: [m.a(x), {"y": m.a(x) + 1}], a=nn.Linear(4, 4)), ROWS),
    "a result of one": (lambda: Body(lambda m, x: (m.a(x),), a=nn.Linear(4, 4)), ROWS),
    "no columns": (lambda: nn.Sequential(nn.Linear(4, 0)), ROWS),
    "no columns inside": (lambda: nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 2)), ROWS),
    "batch norm, layer norm": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Linear(4, 2)), ROWS),
    "pooling of an expanded image": (
        lambda: Body(lambda m, x: m.pool(x.expand(-1, 3, 8, 8)), pool=nn.AvgPool2d(2)), (torch.randn(2, 1, 8, 8),),
    ),
    "a very small divisor": (lambda: Body(lambda m, x: m.a(x * 1e-38) / 1e-39, a=nn.Linear(4, 4, bias=False)), ROWS),
    "a factor beyond float32": (lambda: Body(lambda m, x: m.a(x) * 1e39, a=nn.Linear(4, 4)), ROWS),
    **{
        f"an argument {value!r}": (
            lambda: Body(lambda m, x, v: m.a(x) * (v if isinstance(v, (int, float)) else 2), a=nn.Linear(4, 4)), (*ROWS, value),
        )
        for value in (3, 2.5, True, "text", None)
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", [None, "portable"])
@pytest.mark.parametrize("name", CASES)
def test_usual_models(name: str, backend: str | None) -> None:
    torch.manual_seed(1)
    build, args = CASES[name]
    model = build().eval()
    fast = rt.compile(model, args, backend=backend)
    assert isinstance(fast, rt.CompiledModel)
    flatten = torch.utils._pytree.tree_flatten
    (want, spec), (got, given_spec) = flatten(model(*args)), flatten(fast(*args))
    assert spec == given_spec
    out = torch.utils._pytree.tree_unflatten(
        [torch.full_like(w, torch.nan) if isinstance(w, Tensor) else w for w in want], spec
    )
    bound = fast.bind(*args, out=out)
    bound()
    for results in (got, flatten(out)[0], flatten(fast.run(*args, out=out))[0]):
        for a, b in zip(want, results):
            if isinstance(a, Tensor):
                torch.testing.assert_close(b, a.detach(), rtol=1e-4, atol=1e-5)
            else:
                assert a == b


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_argument_that_was_exported_as_a_constant_is_held() -> None:
    model = Body(lambda m, x, v: m.a(x) * v, a=nn.Linear(4, 4)).eval()
    fast = rt.compile(model, (*ROWS, 3))
    for value in (4, 3.0, True, None, "3", torch.tensor(3)):
        with pytest.raises(rt.ShapeError, match="the value of the example"):
            fast(*ROWS, value)


def test_what_is_left_to_torch_is_said() -> None:
    model = Body(lambda m, x: torch.special.airy_ai(m.a(x)), a=nn.Linear(4, 4)).eval()
    with pytest.warns(UserWarning, match=r"1 of 2 stages native.*airy_ai"):
        fast = rt.compile(model, ROWS)
    assert "1 of 2 stages native" in repr(fast) and "1 of 2 stages native" in fast.explain(measure=False)
    with pytest.raises(rt.UnsupportedProblem, match="airy_ai"):
        rt.compile(model, ROWS, strict=True)
    text = fast.explain(measure=False)
    assert "no operator computes it" in text and "not portable" not in text
    assert "not portable" in fast.explain(measure=False, verbose=True)


def test_explain_under_another_default_device() -> None:
    fast = rt.compile(nn.Linear(4, 4).eval(), ROWS)
    with torch.device("meta"):
        assert "float32[3, 4]" in fast.explain()


def test_reset_names_what_is_no_stream() -> None:
    live = rt.stream(nn.GRU(4, 4, batch_first=True).eval(), torch.randn(2, 4))
    for wrong in (0.5, True, -1, 2, "0", [0, 5], [0.0], None.__class__):
        with pytest.raises(rt.ShapeError, match=r"0\.\.1"):
            live.reset(wrong)
    live.reset([0, 1])
    live.reset(range(2))


class LastIsBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)[:, 0] + self.a(x)[:, -1]


def test_samples_in_the_last_dimension() -> None:
    model = LastIsBatch().eval()
    fast = rt.compile(model, ROWS)
    for size in (1, 3, 9):
        x = torch.randn(size, 4)
        torch.testing.assert_close(fast(x), model(x).detach())


def test_examples_that_are_not_those_of_the_model() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(3, 4)
    for wrong in ((), (x, x)):
        with pytest.raises(rt.ShapeError, match="forward takes"):
            rt.compile(model, wrong)
    with pytest.raises(rt.UnsupportedProblem, match=r"torch\.nn\.Module"):
        rt.compile(lambda x: x, (x,))
    with pytest.raises(rt.ShapeError, match="at most max_batch=2"):
        rt.compile(model, (x,), max_batch=2)
    fast = rt.compile(model, (x.numpy(),))
    torch.testing.assert_close(fast(x), model(x).detach())


def test_a_pattern_that_fits_nothing_is_said() -> None:
    model, data = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), [torch.randn(9, 4)]
    with pytest.warns(UserWarning, match="'encoder' fits no module"):
        rt.compile(model, ROWS, {"encoder": "w8a8", "1": "w8a8"}, calibration=data)
