"""Functional graphs: those of `run_decompositions({})`, and that where torch has no such step any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import exported_program

from rtaccel.convert.frontend.functional import edit as functional_edit
from rtaccel.convert.frontend.functional import functionalize as module
from rtaccel.convert.frontend.functional.functionalize import functionalize
from tests.support.networks.call import Call


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0.0
    return y.relu_().add_(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": in_place,
    "plain in place": lambda x: (x * 2).relu_().add_(x).clamp_(0, 1),
    "views": lambda x: torch.cat(x.transpose(1, 2).reshape(len(x), -1).chunk(3, 1)).unflatten(1, (2, -1)),
    "composites": lambda x: nn.functional.gelu(torch.einsum("bij,bkj->bik", x, x) @ x).softmax(-1),
    "norms": lambda x: nn.functional.normalize(nn.functional.layer_norm(x, (8,))),
    "pads": lambda x: nn.functional.pad(x, (1, 2), mode="reflect"),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
    "to": lambda x: x.double().float().type_as(x).contiguous(),
    "branch": lambda x: torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,)),
}
CLONES = {"aten.clone.default", "aten._assert_tensor_metadata.default", "aten.sym_size.int"}
"""Calls that leave values as they are."""
MODULES: dict[str, nn.Module] = {
    "lstm": nn.LSTM(8, 5, 2, batch_first=True), "gru": nn.GRU(8, 5, bidirectional=True),
    "encoder": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "convolution": nn.Sequential(nn.Conv1d(6, 4, 3, padding="same"), nn.BatchNorm1d(4), nn.ReLU(inplace=True)),
    **{name: Call(function) for name, function in FUNCTIONS.items()},
}  # fmt: skip


def calls(program: torch.export.ExportedProgram) -> list[Any]:
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, fx.GraphModule)]
    return [node.target for graph in graphs for node in graph.nodes if node.op == "call_function"]


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model.eval(), (torch.randn(4, 6, 8),), strict=False)


def is_functional(program: torch.export.ExportedProgram) -> bool:
    """No call in place, and no composite call that torch's own step would take apart."""
    targets = [t for t in calls(program) if isinstance(t, torch._ops.OpOverload)]
    return not any(t._schema.is_mutable or functional_edit._taken_apart(t) for t in targets)


@pytest.mark.parametrize("name", MODULES)
def test_same_results_as_the_step_of_torch(name: str) -> None:
    model, x = MODULES[name], torch.randn(4, 6, 8)
    want = exported(model).run_decompositions({})
    got = functionalize(exported(model))
    assert is_functional(got) and list(got.graph_signature.user_outputs) == [n.name for n in outputs(got)]
    with torch.no_grad():
        torch.testing.assert_close(got.module()(x), want.module()(x), rtol=0, atol=0)
    kept = {str(t) for t in calls(want)} - CLONES
    assert name == "norms" or {str(t) for t in calls(got)} - CLONES == kept


@pytest.mark.parametrize("name", ["views", "composites", "in place", "convolution", "encoder", "to"])
def test_these_need_no_second_trace(name: str) -> None:
    assert functional_edit.edit(exported(MODULES["plain in place" if name == "in place" else name]))


def outputs(program: torch.export.ExportedProgram) -> list[fx.Node]:
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    return list(output.args[0])


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    want = calls(functionalize(exported(MODULES["in place"])))
    monkeypatch.delattr(exported_program, "_decompose_exported_program")
    assert module._step_of_torch() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "_step_of_torch", lambda: None)
    assert calls(functionalize(exported(MODULES["in place"]))) == want


def test_the_step_is_found_here() -> None:
    assert module._step_of_torch() is not None, "compiling is slow: run_decompositions has another part than was known"
