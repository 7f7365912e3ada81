"""Recurrent calls are exported as torch does it, at the cost of their shapes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend import export, recurrent_shapes
from rtaccel.convert.frontend.recurrent_shapes import known_shapes

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {"batch_first": True}),
    "lstm, time first": (nn.LSTM, {}),
    "lstm, projected": (nn.LSTM, {"batch_first": True, "proj_size": 3}),
    "lstm, two layers in both directions": (nn.LSTM, {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    "gru": (nn.GRU, {"batch_first": True, "bias": False}),
    "gru, both directions, time first": (nn.GRU, {"bidirectional": True}),
    "tanh": (nn.RNN, {"batch_first": True}),
    "relu": (nn.RNN, {"batch_first": True, "num_layers": 2, "nonlinearity": "relu"}),
}


def described(value: Any) -> Any:
    """Everything of a value that a later call could depend on."""
    if isinstance(value, Tensor):
        return str(value.shape), str(value.stride()), value.dtype, value.device, value.requires_grad
    return [described(part) for part in value] if isinstance(value, (tuple, list)) else str(value)


def exported(layer: nn.Module, x: Tensor, any_batch: bool) -> tuple[list[str], str]:
    """The graph and the batches it is for, with the symbols of sizes by their order."""
    program = export._export(layer, (x,), any_batch)
    lines = [f"{n.op} {n.name} {n.target} {n.args} {described(n.meta.get('val'))}" for n in program.graph.nodes]
    symbols = sorted({str(s) for s in program.range_constraints})
    for index, symbol in enumerate(symbols):
        lines = [line.replace(symbol, f"size{index}") for line in lines]
    return lines, str(export.batch_range(program, len(x))) if any_batch else "fixed"


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_is_the_one_of_torch(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options = LAYERS[name]
    layer = kind(4, 6, **options).eval()
    x = torch.randn((7, steps, 4) if options.get("batch_first") else (steps, 7, 4))
    any_batch = bool(options.get("batch_first"))
    got = exported(layer, x, any_batch)
    monkeypatch.setattr(export, "known_shapes", nullcontext)
    states = torch.export.export(layer, (x,)).graph.output_node().args[0][1:]
    if any(state.meta["val"].dim() != 3 for state in states):
        pytest.skip("this torch exports states with a dimension too many, as all before 2.12 do for an LSTM")
    assert got == exported(layer, x, any_batch)


def operations(layer: nn.Module, steps: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many calls of fake tensors an export makes."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    calls, plain = [0], FakeTensorMode.dispatch

    def counted(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        return plain(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FakeTensorMode, "dispatch", counted)
        export._export(layer, (torch.randn(7, steps, 4),), any_batch=True)
    return calls[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_longer_window_costs_no_more(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = kind(4, 6, batch_first=True).eval()
    operations(layer, 3, monkeypatch)  # torch keeps what it found of each call
    assert operations(layer, 40, monkeypatch) <= operations(layer, 3, monkeypatch) + 8


def test_torch_is_left_as_it_was() -> None:
    from torch._decomp import decomposition_table

    ops = [torch.ops.aten.lstm.input, torch.ops.aten.gru.input, torch.ops.aten.rnn_tanh.input]
    before = [(dict(op.py_kernels), decomposition_table[op]) for op in ops]
    with known_shapes():
        assert all(dict(op.py_kernels) != kernels for op, (kernels, _) in zip(ops, before))
    assert before == [(dict(op.py_kernels), decomposition_table[op]) for op in ops]
    with pytest.raises(ZeroDivisionError), known_shapes():
        1 / 0  # noqa: B018
    assert before == [(dict(op.py_kernels), decomposition_table[op]) for op in ops]


def test_a_call_that_computes_is_computed() -> None:
    """Real tensors inside an export, as for constants, go through torch's own function."""
    layer, x = nn.LSTM(4, 6, batch_first=True).eval(), torch.randn(2, 5, 4)
    state = (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))
    arguments = (x, state, list(layer._flat_weights), True, 1, 0.0, False, False, True)
    assert not recurrent_shapes._is_shape_alone(arguments)
    with torch.no_grad():
        want = layer(x)[0]
        with known_shapes():
            got = torch.ops.aten.lstm.input.py_kernels[torch._C.DispatchKey.CompositeImplicitAutograd](*arguments)[0]
    torch.testing.assert_close(got, want)


class Takes(nn.Module):
    """Two tensors more, in several ways."""

    def __init__(self, layer: nn.Module, form: str) -> None:
        super().__init__()
        self.layer, self.form = layer, form

    def forward(self, x: Tensor, states: Any, more: Any = None) -> Any:
        if self.form == "rows":
            return self.layer(x) - 2 * self.layer(states) + more["y"]
        return self.layer(x, states if more is None else (states, more))


@pytest.mark.parametrize("form", ["tuple", "apart", "rows"])
def test_one_tensor_given_twice_stands_for_two_arguments(form: str) -> None:
    """torch.export makes one input of it: zeros for both states of an LSTM made a model that read one of them."""
    rows = form == "rows"
    model = Takes(nn.Linear(5, 5) if rows else nn.LSTM(5, 4, 2, batch_first=True), form).eval()
    x, shape = (torch.randn(3, 5), (3, 5)) if rows else (torch.randn(3, 6, 5), (2, 3, 4))

    def call(a: Tensor, b: Tensor) -> tuple[Any, ...]:
        return {"tuple": (x, (a, b)), "apart": (x, a, b), "rows": (x, a, {"y": b})}[form]

    same, a, b = torch.zeros(shape), torch.randn(shape), torch.randn(shape)
    for example in (call(same, same), call(same, same[:])):
        fast = rt.compile(model, example)
        with torch.no_grad():
            torch.testing.assert_close(fast(*call(a, b)), model(*call(a, b)), rtol=1e-4, atol=1e-5)
