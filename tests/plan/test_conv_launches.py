"""Convolutions in static W8A8: what their graphs launch, counted from captured ones."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)

from bench.zoo.captured import PlayedCard, plan_of
from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._gpu.triton_launch import played
from rtaccel.kernels.conv import cases, fusion
from rtaccel.plan.fuse import fuse
from rtaccel.plan.nan_marks import marked_values
from rtaccel.runtime.gpu.ahead import stream_kernels_of
from rtaccel.runtime.gpu.graph_stream import GraphStream, graph_stream
from rtaccel.runtime.streaming.program import stream_program
from tests.gpu.test_tokens import captured, launches
from tests.support.networks.conv_chains import CHAINS


@pytest.mark.parametrize("name", CHAINS)
def test_convolutions_round_x_and_hand_on_its_nan(name: str) -> None:
    make, shape, (every, looks) = CHAINS[name]
    nodes = captured(make(), torch.randn(1, *shape[1:]), "w8a8", True)
    assert not nodes.torch and not nodes.library
    assert sum(nodes.triton.values()) == every
    assert launches(nodes, "propagate_nan_") == looks and launches(nodes, "quantize_") == 0


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 2, dilation=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(nn.functional.pad(x.transpose(1, 2), (2, 0))))
        return (torch.relu(self.second(nn.functional.pad(y, (3, 0)))) + y).transpose(1, 2)


@pytest.mark.parametrize(("scheme", "counts"), [("w8a8", "marks_"), ("float32", "count_calls")])
def test_a_step_of_a_stream_has_no_kernel_of_pytorch(scheme: str, counts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are counted where marks are, or in a launch of ours."""
    calibration = None if scheme == "float32" else [torch.randn(8, 30, 6)]
    found, card = stream_program(Causal().eval(), torch.randn(3, 6), scheme, calibration, "graph"), PlayedCard()
    (step,) = found.program.steps
    assert isinstance(step, SubgraphStep) and found.states is not None
    monkeypatch.setattr(GraphStream, "_captured", lambda self, x: card.capture(lambda: self._launched(x)))
    with played():
        graph_stream(step.group, replace(found.states, samples=3), card, lambda whole: plan_of(whole, 3))
    (nodes,) = card.captured
    assert not nodes.torch and not nodes.library
    assert [form for form in nodes.triton if form.startswith(counts)] and launches(nodes, "conv_stream_") == 2
    assert sum(nodes.triton.values()) == 4


@pytest.mark.parametrize("streams", [2, 300])
def test_a_step_of_a_stream(streams: int) -> None:
    """A launch for each convolution, that rounds x and writes its ring, and one for all marks."""
    example = torch.randn(streams, 6)
    found = stream_kernels_of(Causal().eval(), example, "w8a8", [torch.randn(8, 30, 6)], 90)
    starts = ("conv_stream_", "marks_", "pointwise_")
    counts = [sum(kernel.name.startswith(start) for kernel in found.values()) for start in starts]
    assert counts == [2, 1, 1] and len(found) == 4


def test_many_numbers_are_rounded_before() -> None:
    """A program that would round more numbers than a launch costs takes int8."""
    wide, narrow = (
        cases.Shape(256, 64, (1, 400), (1, 5), causal=True),
        cases.Shape(8, 64, (1, 400), (1, 5), causal=True),
    )
    for shape, rounds in ((wide, False), (narrow, True)):
        stage = cases.make_stage(shape, "static", "relu", out="int8")
        x = Value("float", shape.c, steps=400)
        quantize = Stage("quantize", "x", (x,), (stage.inputs[0],))
        ops = [s.op for s in fuse([quantize, stage], list(stage.outputs), 1)]
        assert ops == (["conv"] if rounds else ["quantize", "conv"])
    long = cases.make_stage(cases.Shape(8, 64, (1, fusion.MAX_LOOKED_AT), (1, 1)), "self", out="int8")
    assert operator("conv").int8.give_mark(long, Value("mark", 1)) is None


def test_a_result_beside_keeps_the_launch() -> None:
    """What is computed of x in float32 has no mark, so the plan looks."""
    shape = cases.Shape(4, 4, (1, 9), (1, 1))
    first, last = cases.make_stage(shape, "self", out="int8"), cases.make_stage(shape, "static", out="float32")
    x, q, y = Value("x", 4, steps=9), Value("q", 4, "int8", last.inputs[0].quant, 9), Value("y", 4, steps=9)
    stages = [
        Stage("conv", "first", (x,), (q,), first.tensors, first.attrs),
        Stage("conv", "last", (q,), (y,), last.tensors, last.attrs),
        Stage("pointwise", "beside", (x,), (Value("z", 4, steps=9),), {}, {"activation": "relu"}),
    ]
    alone = fuse(stages[:2], [y], 1)
    assert marked_values(alone, [y]) == [] and alone[1].attrs["takes_mark"] == alone[0].attrs["gives_mark"] == 1
    both = fuse(stages, [y, Value("z", 4, steps=9)], 1)
    assert [v.name for v in marked_values(both, [y, Value("z", 4, steps=9)])] == ["x"]
    assert not any("gives_mark" in s.attrs for s in both)
