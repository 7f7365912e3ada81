"""Functional graphs: those of `run_decompositions({})`, and that where torch has no such step any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import exported_program

from rtaccel.convert.frontend import functionalize as module
from rtaccel.convert.frontend.functionalize import functionalize


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0.0
    return y.relu_().add_(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": in_place,
    "views": lambda x: torch.cat(x.transpose(1, 2).reshape(len(x), -1).chunk(3, 1)).unflatten(1, (2, -1)),
    "composites": lambda x: nn.functional.gelu(torch.einsum("bij,bkj->bik", x, x) @ x).softmax(-1),
    "norms": lambda x: nn.functional.normalize(nn.functional.layer_norm(x, (8,))),
    "pads": lambda x: nn.functional.pad(x, (1, 2), mode="reflect"),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
    "to": lambda x: x.double().float().type_as(x).contiguous(),
    "branch": lambda x: torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,)),
}
MODULES: dict[str, nn.Module] = {
    "lstm": nn.LSTM(8, 5, 2, batch_first=True), "gru": nn.GRU(8, 5, bidirectional=True),
    "encoder": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "convolution": nn.Sequential(nn.Conv1d(6, 4, 3, padding="same"), nn.BatchNorm1d(4), nn.ReLU(inplace=True)),
    **{name: Call(function) for name, function in FUNCTIONS.items()},
}  # fmt: skip


def text(program: torch.export.ExportedProgram) -> list[str]:
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, fx.GraphModule)]
    return [f"{node.op} {node.target} {node.args} {node.kwargs}" for graph in graphs for node in graph.nodes]


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model.eval(), (torch.randn(4, 6, 8),), strict=False)


@pytest.mark.parametrize("name", MODULES)
def test_the_graph_is_the_one_of_torch(name: str) -> None:
    program = exported(MODULES[name])
    assert text(functionalize(program)) == text(program.run_decompositions({}))


def test_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    program = exported(MODULES["in place"])
    want = text(functionalize(program))
    monkeypatch.delattr(exported_program, "_decompose_exported_program")
    assert module._step_of_torch() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "_step_of_torch", lambda: None)
    assert text(functionalize(program)) == want


def test_the_step_is_found_here() -> None:
    assert module._step_of_torch() is not None, "compiling is slow: run_decompositions has another part than was known"
