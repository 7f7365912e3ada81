"""What nobody should pass to a compiled model, a stream, and their states; in the form of compile.py."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.error_inputs.models import Two, X, fast, live, mlp

Case = tuple[str, Callable[[], Any], type[rt.RtaccelError], str]

CASES: list[Case] = []

M = rt.UnsupportedProblem


def add(name: str, call: Callable[[], Any], error: type[rt.RtaccelError], words: str) -> None:
    CASES.append((name, call, error, words))


# -- calls ------------------------------------------------------------------------------------------------------------

BAD: dict[str, Callable[[], Any]] = {
    "another width": lambda: torch.randn(2, 13), "rank 1": lambda: torch.randn(12), "rank 3": lambda: torch.randn(1, 2, 12),
    "a scalar": lambda: torch.tensor(1.0), "float64": lambda: X.double(), "float16": lambda: X.half(),
    "bfloat16": lambda: X.bfloat16(),
    "int64": lambda: X.long(), "bool": lambda: X > 0, "complex": lambda: X.to(torch.complex64), "meta": lambda: X.to("meta"),
    "sparse": lambda: X.to_sparse(), "None": lambda: None, "a number": lambda: 1.0, "a text": lambda: "x",
    "a list": lambda: [1.0],
    "a nested list": lambda: X.tolist(), "a tuple": lambda: (X,), "a dict": lambda: {"x": X}, "a function": lambda: len,
    "an object array": lambda: np.array([None, 1]),
    "a nested tensor": lambda: torch.nested.nested_tensor([X[0], X[1]]),
}  # fmt: skip
WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda model, x: model(x),
    "run": lambda model, x: model.run(x, out=torch.empty(2, 5)),
    "bind": lambda model, x: model.bind(x, out=torch.empty(2, 5)),
}
for kind in ("mlp", "sorted", "first"):
    for way, do in WAYS.items():
        for name, make in BAD.items():
            add(
                f"{way} of {kind} with {name}",
                lambda k=kind, do=do, make=make: do(fast(k), make()),
                rt.ShapeError,
                "call|run|bind|input",
            )
for way, call in (
    ("call without arguments", lambda: fast()()), ("call with two", lambda: fast()(X, X)),
    ("call with a name that is not there", lambda: fast()(z=X)),
    ("call with a name twice", lambda: fast()(X, input=X)), ("run without inputs", lambda: fast().run(out=torch.empty(2, 5))),
    ("run with two", lambda: fast().run(X, X, out=torch.empty(2, 5))),
    ("bind without inputs", lambda: fast().bind(out=torch.empty(2, 5))),
    ("two inputs, one given", lambda: fast("two")(X)), ("two inputs, three given", lambda: fast("two")(X, X, X)),
    ("two inputs, other order", lambda: fast("two")(torch.ones(2, 3), X)),
    ("two inputs, two batches", lambda: fast("two")(X, torch.ones(3, 3))),
    ("two inputs as a tuple", lambda: fast("two")((X, torch.ones(2, 3)))),
    ("a dict without its name", lambda: fast("named")({"z": X})),
    ("a dict with more", lambda: fast("named")({"x": X, "z": X})), ("a tensor for a dict", lambda: fast("named")(X)),
    ("None for a dict", lambda: fast("named")(None)),
):  # fmt: skip
    add(way, call, rt.ShapeError, "call|run|bind|compile")
add(
    "more rows than max_batch",
    lambda: fast("mlp", max_batch=3)(torch.randn(4, 12)),
    rt.ShapeError,
    r"4.*max_batch=3",
)

OUTS: dict[str, Callable[[], Any]] = {
    "width": lambda: torch.zeros(2, 6), "batch": lambda: torch.zeros(3, 5), "rank": lambda: torch.zeros(10),
    "float64": lambda: torch.zeros(2, 5).double(),
    "int32": lambda: torch.zeros(2, 5, dtype=torch.int32), "meta": lambda: torch.zeros(2, 5, device="meta"), "None": lambda: None,
    "a number": lambda: 1.0, "a text": lambda: "y", "two": lambda: (torch.zeros(2, 5), torch.zeros(2, 5)),
    "none at all": lambda: (),
    "a list of numbers": lambda: [1.0], "expanded": lambda: torch.zeros(1, 5).expand(2, 5),
    "sparse": lambda: torch.zeros(2, 5).to_sparse(), "nested": lambda: torch.nested.nested_tensor([torch.zeros(5)] * 2),
    "a dict": lambda: {"y": torch.zeros(2, 6)},
}  # fmt: skip
for kind in ("mlp", "sorted"):
    for way in ("run", "bind"):
        for name, make in OUTS.items():
            add(
                f"{way} of {kind} into {name}",
                lambda k=kind, w=way, make=make: getattr(fast(k), w)(X, out=make()),
                rt.ShapeError,
                "out",
            )


class Image(Tensor):
    """As libraries of images, audio and medicine subclass tensors."""


for way, do in WAYS.items():
    add(
        f"{way} with a subclass",
        lambda do=do: do(fast(), X.as_subclass(Image)),
        M,
        r"Image.*as_subclass\(torch.Tensor\)",
    )


def _twice(way: str) -> Any:
    y = torch.zeros(2, 5)
    return getattr(fast("two"), way)(X, torch.ones(2, 3), out=(y, y))


for way in ("run", "bind"):
    add(f"{way} into one tensor twice", lambda w=way: _twice(w), rt.ShapeError, "out.*(overlap|share)")
for name, form in (("strided", lambda x: torch.zeros(2, 24)[:, ::2]), ("turned", lambda x: torch.zeros(12, 2).T),
                   ("negative", lambda x: torch._neg_view(x.clone()))):  # fmt: skip
    add(
        f"bind of a {name} input",
        lambda form=form: fast().bind(form(X), out=torch.empty(2, 5)),
        rt.ShapeError,
        "strided|misaligned|memory",
    )
add(
    "bind into a strided out",
    lambda: fast().bind(X, out=torch.zeros(2, 10)[:, ::2]),
    rt.ShapeError,
    "strided|misaligned|memory",
)


def _shared_memory() -> Any:
    memory = torch.zeros(24)
    return fast().bind(memory.view(2, 12), out=memory[:10].view(2, 5))


add("bind into its own input", _shared_memory, rt.ShapeError, "overlap")


def _sealed(call: Callable[[Any], Any]) -> Any:
    return call(copy.deepcopy(fast()).seal())


add(
    "sealed, a strided input",
    lambda: _sealed(lambda m: m.run(torch.zeros(2, 24)[:, ::2], out=torch.empty(2, 5))),
    rt.ShapeError,
    "sealed",
)
add(
    "sealed, another dtype",
    lambda: _sealed(lambda m: m.run(X.double(), out=torch.empty(2, 5))),
    rt.ShapeError,
    "sealed|float64",
)
add("seal with a torch call inside", lambda: fast("sorted").seal(), M, "airy_ai")
for name, call in (("half", lambda m: m.half()), ("double", lambda m: m.double()), ("to meta", lambda m: m.to("meta"))):
    add(f"a compiled model {name}", lambda call=call: call(fast()), M, "compile")
add("pickle of a compiled model", lambda: __import__("pickle").dumps(fast()), M, "state_dict")

# -- streams ----------------------------------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[], Any]] = {
    "another width": lambda: torch.randn(2, 5), "three streams": lambda: torch.randn(3, 4),
    "one stream": lambda: torch.randn(1, 4),
    "no stream": lambda: torch.randn(0, 4), "a window": lambda: torch.randn(2, 1, 4), "rank 1": lambda: torch.randn(4),
    "float64": lambda: torch.randn(2, 4).double(), "int64": lambda: torch.zeros(2, 4, dtype=torch.int64), "None": lambda: None,
    "a list": lambda: [[0.0] * 4] * 2, "a text": lambda: "x", "meta": lambda: torch.zeros(2, 4, device="meta"),
}  # fmt: skip
for name, make in MOMENTS.items():
    add(f"step with {name}", lambda make=make: live().step(make()), rt.ShapeError, "call|step|input|streams")
add("step without a time step", lambda: live().step(), rt.ShapeError, "call|step|input")
add(
    "step with two time steps",
    lambda: live().step(torch.randn(2, 4), torch.randn(2, 4)),
    rt.ShapeError,
    "call|step|input",
)
add("step of tokens with numbers", lambda: live("tokens").step(torch.randn(2)), rt.ShapeError, "int64")
for value in (
    -1,
    2,
    10**30,
    0.5,
    "0",
    True,
    [0, 2],
    [0.5],
    [None],
    ["0"],
    [[0]],
    math.nan,
    torch.tensor([5]),
    {"a": 1},
):
    add(f"reset of {value!r}", lambda v=value: live().reset(v), rt.ShapeError, r"reset.*0\.\.1|streams")


class Head(nn.Module):
    """A model over windows that cannot go step by step, for what `function` does with them."""

    def __init__(self, function: Callable[[Tensor], Tensor], memory: nn.Module) -> None:
        super().__init__()
        self.function, self.memory = function, memory

    def forward(self, x: Tensor) -> Tensor:
        y = self.memory(x)
        return self.function(y[0] if isinstance(y, tuple) else y)


for name, make, words in (
    ("both directions", lambda: nn.GRU(4, 6, batch_first=True, bidirectional=True), "backwards"),
    ("a softmax over all time steps", lambda: Head(lambda y: y.softmax(1), nn.GRU(4, 6, batch_first=True)), "time steps"),
    ("the first time step", lambda: Head(lambda y: y[:, 0], nn.GRU(4, 6, batch_first=True)), "time step"),
    ("attention", lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), "time steps|attention"),
    ("a convolution that looks ahead", lambda: nn.Conv1d(4, 6, 3, padding=1), "time steps still to come"),
    ("a flip of time", lambda: Head(lambda y: y.flip(1), nn.GRU(4, 6, batch_first=True)), "flip|time steps|operator"),
    ("an Airy function", lambda: Head(torch.special.airy_ai, nn.GRU(4, 6, batch_first=True)), "airy_ai|operator"),
):  # fmt: skip
    add(f"stream of {name}", lambda make=make: rt.stream(make().eval(), torch.randn(2, 4)), M, words)

add("stream of two inputs", lambda: rt.stream(Two().eval(), torch.randn(2, 4)), rt.ShapeError, "inputs|argument")

# -- states -----------------------------------------------------------------------------------------------------------

STATES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "another shape": (lambda t: t[:1], r"\[|shape"), "float64": (lambda t: t.double(), "float64"),
    "int8": (lambda t: t.to(torch.int8), "int8"),
    "a NaN": (lambda t: torch.full_like(t, math.nan), "NaN|finite"),
    "an infinity": (lambda t: torch.full_like(t, math.inf), "inf|finite"),
    "on meta": (lambda t: t.to("meta"), "meta"), "sparse": (lambda t: t.to_sparse(), "sparse|layout"),
    "None": (lambda t: None, "NoneType|None"),
    "a number": (lambda t: 1.0, "float"), "a list": (lambda t: t.tolist(), "list"), "a text": (lambda t: "w", "str"),
}  # fmt: skip


def _load(model: Any, change: Callable[[Tensor], Any], name: str = "weight", strict: bool = True) -> Any:
    state = dict(model.state_dict())
    key = next(k for k in state if name in k)
    return model.load_state_dict({**state, key: change(state[key])}, strict=strict)


for name, (change, words) in STATES.items():
    add(f"a weight of {name}", lambda c=change: _load(fast(), c), rt.FormatError, f"(?s)load_state_dict.*({words})")
    add(
        f"a weight of a stream of {name}",
        lambda c=change: _load(live(), c),
        rt.FormatError,
        f"(?s)load_state_dict.*({words})",
    )
for name, state in (
    ("None", None),
    ("a text", "state.pt"),
    ("a number", 3),
    ("a list", [1]),
    ("a model", nn.Linear(2, 2)),
):
    add(f"load_state_dict({name})", lambda s=state: fast().load_state_dict(s), rt.FormatError, "load_state_dict")
for name, change in (
    ("shorter", lambda p: p[:-1]), ("longer", lambda p: torch.cat([p, p])), ("empty", lambda p: p[:0]),
    ("float", lambda p: p.float()),
    ("rank 2", lambda p: p[None]), ("None", lambda p: None), ("bytes", lambda p: bytes(p.numpy())),
    ("on meta", lambda p: p.to("meta")),
):  # fmt: skip
    add(
        f"a past that is {name}", lambda c=change: _load(live(), c, "_extra_state"), rt.FormatError, "_extra_state|past"
    )


def int8_model() -> Any:
    return _int8()


@functools.cache
def _int8() -> Any:
    torch.manual_seed(1)
    return rt.compile(mlp(), (X,), "w8a8", calibration=[torch.randn(32, 12)])


for name, key, change, words in (
    ("a scale of 0", "weight_scale", lambda t: t * 0, "positive"), ("a negative scale", "weight_scale", lambda t: -t, "positive"),
    ("a NaN as scale", "weight_scale", lambda t: t * math.nan, "finite"),
    ("a zero point of 200", "zero_point", lambda t: t * 0 + 200, "-128..127"),
    ("a zero point in float", "zero_point", lambda t: t.float(), "int32"),
    ("a weight of -128", ".weight", lambda t: torch.full_like(t, -128), "-127..127"),
    ("float weights", ".weight", lambda t: t.float(), "int8"),
    ("an output scale of 0", "output_scale", lambda t: t * 0, "positive"),
):  # fmt: skip
    add(f"int8 state with {name}", lambda k=key, c=change: _load(int8_model(), c, k), rt.FormatError, words)
