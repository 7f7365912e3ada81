"""Stages of LSTM, GRU and RNN from torch's modules, what the modules say in float64, and the questions that all are asked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.recurrent.cases import make_inputs
from tests.support.networks.int8_layers import same
from tests.support.one_stage import compiled_both, runs

EPS = torch.finfo(torch.float32).eps
FORMS = ("float32", "int8-static", "int8-dynamic", "int4-dynamic")
Recurrent = nn.LSTM | nn.GRU | nn.RNN

SHAPES: dict[str, dict[str, Any]] = {
    "one of each": {"inputs": 1, "hidden": 1, "time": 1},
    "a step": {"inputs": 7, "hidden": 19, "time": 1, "num_layers": 2},
    "a window": {"inputs": 5, "hidden": 17, "time": 9},
    "three layers": {"inputs": 3, "hidden": 8, "time": 4, "batch": 2, "num_layers": 3},
    "both directions": {"inputs": 6, "hidden": 11, "time": 5, "batch": 3, "num_layers": 2, "bidirectional": True},
    "batch first": {"inputs": 4, "hidden": 13, "time": 6, "batch": 3, "batch_first": True, "bidirectional": True},
    "no bias": {"inputs": 4, "hidden": 9, "time": 3, "bias": False},
    "newest output": {"inputs": 5, "hidden": 10, "time": 4, "batch": 2, "batch_first": True, "last_only": True},
}


def made(
    kind: type[Recurrent], inputs: int, hidden: int, time: int, batch: int = 1, states: bool = True,
    last_only: bool = False, **options: Any,
) -> tuple[Recurrent, Stage]:  # fmt: skip
    """A module of torch with random weights, and the stage of its operator for a window of `time` steps."""
    module = kind(inputs, hidden, **options)
    directions = 2 if module.bidirectional else 1
    names = ("hc" if kind is nn.LSTM else "h") if states else ""
    rows = module.num_layers * directions * batch
    x = Value("x", inputs, steps=time * batch)
    y = Value("y", directions * hidden, steps=batch if last_only else time * batch)
    attrs = {
        "hidden": hidden, "layers": module.num_layers, "directions": directions, "time": time, "batch": batch,
        "batch_first": int(module.batch_first), "last_only": int(last_only),
    }  # fmt: skip
    before, after = ([Value(f"{name}{end}", hidden, steps=rows) for name in names] for end in "0n")
    tensors = {name: t.detach().clone() for name, t in module.named_parameters()}
    return module, Stage(module.mode.lower(), "r", (x, *before), (y, *after), tensors, attrs)


def inputs_of(stage: Stage, samples: int) -> tuple[Tensor, ...]:
    """Normal numbers; states in -1..1, as a tanh leaves them."""
    shapes = [(samples, *v.shape) for v in stage.inputs]
    return torch.randn(shapes[0]), *(torch.rand(shape) * 2 - 1 for shape in shapes[1:])


def torch_says(module: Recurrent, stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    """float64 outputs of every sample, one call for each."""
    exact, attrs = copy.deepcopy(module).double(), stage.attrs
    sizes = (attrs["batch"], attrs["time"]) if attrs["batch_first"] else (attrs["time"], attrs["batch"])
    rows = []
    for x, *states in zip(*inputs):
        hx = [s.reshape(-1, attrs["batch"], attrs["hidden"]).double() for s in states]
        with torch.no_grad():
            y, after = exact(x.reshape(*sizes, -1).double(), (tuple(hx) if len(hx) > 1 else hx[0]) if hx else None)
        if attrs["last_only"]:
            y = y[:, -1:] if attrs["batch_first"] else y[-1:]
        after = after if isinstance(after, tuple) else (after,)
        found = (y, *after)[: len(stage.outputs)]
        rows.append([t.reshape(v.shape) for t, v in zip(found, stage.outputs)])
    return tuple(torch.stack(part) for part in zip(*rows))


def flat(found: tuple[Tensor, Any]) -> tuple[Tensor, ...]:
    """(y, hn, cn) of an LSTM's result, (y, hn) of a GRU's."""
    y, states = found
    return (y, *states) if isinstance(states, tuple) else (y, states)


def check_against_torch(kind: type[Recurrent], shape: dict[str, Any], states: bool) -> None:
    """Both are float64 inside, so the reference may be off by its last rounding alone; kernels by a running error."""
    module, stage = made(kind, **shape, states=states)
    inputs = inputs_of(stage, 3)
    wanted = torch_says(module, stage, *inputs)
    for name, run in runs(stage, 3).items():
        bound = EPS if name == "reference" else 2e-5
        for got, want in zip(run(*inputs), wanted, strict=True):
            assert got.shape == want.shape and got.dtype == torch.float32, name
            assert ((got.double() - want).abs() <= bound * want.abs().clamp(min=1)).all(), name


def check_streams_apart(stage: Stage) -> None:
    """Of three streams in a sample: row t * batch + b is stream b."""
    inputs = make_inputs(stage, 2, seed=2)
    changed = inputs[0].clone()
    changed[:, 1::3] = ~changed[:, 1::3] if changed.dtype == torch.int8 else changed[:, 1::3] * 3 + 1
    for name, run in runs(stage, 2).items():
        before, after = run(*inputs), run(changed, *inputs[1:])
        for a, b in zip(before, after):
            assert same(a[:, 0::3], b[:, 0::3]) and same(a[:, 2::3], b[:, 2::3]), name
            assert not same(a[:, 1::3], b[:, 1::3]), name


def check_saturates(stage: Stage) -> None:
    """h of six steps of five inputs stays within -1..1, however large they are."""
    for name, run in runs(stage, 2).items():
        (y,) = run(torch.full((2, 6, 5), 1e4) * torch.tensor([1.0, -1.0])[:, None, None])
        assert torch.isfinite(y).all() and (y.abs() <= 1 + EPS).all(), name


def check_compiled(kind: type[Recurrent], scheme: Any, **options: Any) -> None:
    """C++ and plain torch give the same bits; in float32 both are near the module."""
    model = kind(6, 13, 2, batch_first=True, bidirectional=True, **options)
    native, plain, found = compiled_both(model, (torch.randn(2, 5, 6),), scheme)
    assert found == [model.mode.lower()]
    for rows in (1, 2, 7):
        x = torch.randn(rows, 5, 6)
        got, other = flat(native(x)), flat(plain(x))
        if scheme == rt.Float32():
            for a, b in zip(got, flat(model(x)), strict=True):
                torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)
        else:
            assert all(same(a, b) for a, b in zip(got, other, strict=True))
