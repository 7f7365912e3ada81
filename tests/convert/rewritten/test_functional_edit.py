"""Calls in place made functional by edits: random programs of views, copies and writes against what Python does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rtaccel.convert.frontend.functional.edit import edit
from rtaccel.convert.frontend.functional.functionalize import functionalize

VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "slice": lambda x: x[:, 1:], "transpose": lambda x: x.transpose(-1, -2), "select": lambda x: x.select(-1, 0),
    "reshape": lambda x: x.reshape(x.shape[0], -1), "flatten": lambda x: x.flatten(1), "unsqueeze": lambda x: x.unsqueeze(1),
    "contiguous": lambda x: x.contiguous(), "to": lambda x: x.to(torch.float32), "chunk": lambda x: x.chunk(2, 1)[0],
    "dropout": lambda x: nn.functional.dropout(x, 0.5, False), "unflatten": lambda x: x.unflatten(-1, (-1, 1)),
    "permute": lambda x: x.permute(0, *range(x.dim() - 1, 0, -1)), "unbind": lambda x: x.unbind(1)[-1],
    "view_as": lambda x: x.view_as(x),
    "split": lambda x: x.split(1, -1)[-1], "squeeze": lambda x: x.squeeze(1), "diagonal": lambda x: x.diagonal(0, -1, -2),
    "narrow": lambda x: x.narrow(1, 0, 1),
    "unfold": lambda x: x.unfold(-1, 2, 2) if x.shape[-1] > 1 else None, "expand": lambda x: x.expand(x.shape),
    "steps": lambda x: x[..., ::2],
}  # fmt: skip
FRESH: dict[str, Callable[[Tensor], Tensor]] = {
    "double": lambda x: x * 2, "relu": torch.relu, "clone": torch.clone, "sum": lambda x: x.sum(-1, keepdim=True),
    "batch_norm": lambda x: nn.functional.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
}  # fmt: skip


def write(x: Tensor) -> None:
    x[:, 0] = 0.5


def of_reshaped(x: Tensor) -> None:
    if x.is_contiguous() and x[0].numel() > 2:
        x.view(x.shape[0], -1)[:, 1:3].copy_(x.flatten(1)[:, :2] * 3)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "relu_": lambda x: x.relu_(), "add_": lambda x: x.add_(0.25), "mul_": lambda x: x.mul_(0.5), "to itself": lambda x: x.add_(x),
    "clamp_": lambda x: x.clamp_(-0.5, 0.5), "item": write, "zero_": lambda x: x[:, :1].zero_(), "fill_": lambda x: x.fill_(2.0),
    "row from row": lambda x: x[:, 0].copy_(x[:, -1]), "columns": lambda x: x.transpose(-1, -2)[:, :1].mul_(2.0),
    "masked": lambda x: x.masked_fill_(x > 0.3, -1.0), "unbound": lambda x: x.unbind(1)[0].neg_(),
    "part": lambda x: x.split(1, -1)[0].sub_(1.5), "diagonal_": lambda x: x.diagonal(0, -1, -2).fill_(3.0),
    "element": lambda x: x[..., 0].select(1, -1).add_(7.0) if x.dim() > 2 else None, "reshaped": of_reshaped,
}  # fmt: skip
STEPS = {**VIEWS, **FRESH, **WRITES}


class Program(nn.Module):
    """Steps on values made before: (step, index of the value). What cannot be done to a value is left out."""

    def __init__(self, steps: list[tuple[str, int]], given: list[int]) -> None:
        super().__init__()
        self.steps, self.given = steps, given

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x * 1, x + 1]
        for name, index in self.steps:
            value = values[index % len(values)]
            if value.dim() < 2 or value.dim() > 4 or (name == "chunk" and value.shape[1] < 2) or value.shape[-1] == 0:
                continue
            if name == "slice" and value.shape[1] < 2:
                continue
            made = STEPS[name](value)
            if isinstance(made, Tensor):
                values.append(made)
        return tuple(values[i % len(values)] for i in self.given)


@settings(
    max_examples=60,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), min_size=1, max_size=9),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.booleans(),
)
def test_random_programs(steps: list[tuple[str, int]], given: list[int], open_batch: bool) -> None:
    model, x = Program(steps, given).eval(), torch.randn(5, 4, 6)
    shapes = ({0: torch.export.Dim.AUTO},) if open_batch else None

    def exported() -> torch.export.ExportedProgram:
        with torch.no_grad():
            return torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False)

    with torch.no_grad():
        want = model(x)
        program = exported()
        edit(program)  # whether it could or not, the program means the same
        for got in (program.module()(x), functionalize(exported()).module()(x)):
            for a, b in zip(want, got, strict=True):
                torch.testing.assert_close(b, a, rtol=0, atol=0)


def test_what_others_see() -> None:
    for steps, returned, alone in (
        ([("add_", 0)], [2], True),  # the result, whose old value nobody reads
        ([("slice", 0), ("add_", 2)], [0], True),  # a view is written, its base read
        ([("slice", 0), ("add_", 0)], [2], True),  # the base is written, a view read
        ([("slice", 0), ("add_", 2)], [2], True),
        ([("unfold", 0), ("add_", 0)], [2], True),
        ([("unfold", 0), ("add_", 2)], [0], False),  # its windows lie over one another: they are not put back
    ):
        with torch.no_grad():
            program = torch.export.export(Program(steps, returned), (torch.randn(5, 4, 6),), strict=False)
        assert edit(program) == alone, steps


def test_dropout_in_eval_mode_is_its_input() -> None:
    model, x = Program([("dropout", 0), ("add_", 2)], [0]), torch.randn(5, 4, 6)
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x,), strict=False)
        assert torch.equal(functionalize(program).module()(x)[0], x + 0.25)


@pytest.mark.parametrize("step", ["relu_", "zero_"])
def test_an_input_that_is_written(step: str) -> None:
    class OfInput(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            WRITES[step](x)
            return x * 2

    with torch.no_grad():
        program = torch.export.export(OfInput(), (torch.randn(5, 4, 6),), strict=False)
    assert not edit(program)
