"""Layers that see many rows of one sample, such as the tokens of a transformer: their kernels, counted from a captured graph."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)

from bench.peers.models import BY_NAME
from bench.zoo.captured import Nodes, capture
from rtaccel.convert.batch_mode import choose_batch_mode
from rtaccel.convert.lower import lower
from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.registry import impls
from rtaccel.core.scheme import SchemeMap
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels.fused_linear import contract as fused
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.plan.sparse_gpu import modeled

TOKENS = 32


def captured(model: nn.Module, x: torch.Tensor, scheme: object, static: bool = False) -> Nodes:
    """The nodes of the only graph. Everything is in it: no call falls back, and nothing of PyTorch's is between two graphs."""
    calibration = [torch.randn(4, *x.shape[1:]) for _ in range(2)] if static else None
    found, graph = choose_batch_mode(model.eval(), (x,))
    program = lower(found, graph, scheme if isinstance(scheme, SchemeMap) else SchemeMap(str(scheme)), calibration,
                    equalize=False)  # fmt: skip
    (step,) = program.steps
    assert isinstance(step, SubgraphStep)
    nodes, _ = capture(step.group, program.samples([x]))
    return nodes


def launches(nodes: Nodes, *starts: str) -> int:
    return sum(n for form, n in nodes.triton.items() if form.startswith(starts))


@pytest.mark.parametrize(("scheme", "static"), [("w8a8", True), ("w8a8", False), ("float32", False), ("w4a16", False)])
def test_an_encoder_of_six_layers_is_one_graph(scheme: str, static: bool) -> None:
    """6 layers, 32 tokens: attention, four layers each, and 12 norms with their sums, none of them PyTorch's or a library's.

    The copy is the stand-in's: its tensors have no memory, so the result seems to lie where the input does."""
    nodes = captured(BY_NAME["encoder"].module(), torch.randn(1, TOKENS, 384), scheme, static)
    assert (dict(nodes.torch), dict(nodes.library), nodes.copies) == ({}, {}, int(static))
    assert launches(nodes, "attention_") == 6 and launches(nodes, "norm_") == 12
    assert launches(nodes, "linear_") == 24
    by_row = scheme == "w8a8" and not static
    rounded = 13 if by_row else int(static)  # in a launch before; norms and attention round the others
    assert launches(nodes, "quantize_") == rounded and launches(nodes, "propagate_nan_") == static
    assert sum(nodes.triton.values()) == 6 + 12 + 24 + rounded + static


@pytest.mark.parametrize(
    ("model", "rows", "count"),
    [
        (nn.Linear(96, 40), 1, 1),
        (nn.Sequential(nn.Linear(96, 40), nn.GELU()), 8, 1),
        (nn.Linear(1024, 40), 16, 2),
        (nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048)), 1, 3),
    ],
)
def test_a_layer_with_one_scale_hands_on_its_nan_itself(model: nn.Module, rows: int, count: int) -> None:
    """Few rows are one launch, many two. Of two layers the first one's int8 result has no NaN, so a launch hands it on."""
    nodes = captured(model, torch.randn(rows, next(model.parameters()).shape[1]), "w8a8", True)
    found = launches(nodes, "linear_", "fused_gemv_"), launches(nodes, "quantize_"), launches(nodes, "propagate_nan_")
    layers = sum(isinstance(m, nn.Linear) for m in model.modules())
    assert found == (layers, int(rows > 8), int(layers > 1))
    assert sum(nodes.triton.values()) == count and not nodes.torch


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "w8a16", "float32"])
def test_tokens_are_rows(scheme: str) -> None:
    """A kernel for one row would read all weights again for each token."""
    nodes = captured(BY_NAME["encoder"].module(), torch.randn(1, TOKENS, 384), scheme)
    forms = [form for form in nodes.triton if form.startswith("linear_")]
    assert forms and all(f"_M{TOKENS}_" in form for form in forms), forms
    one = captured(nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 8)), torch.randn(1, 384), scheme)
    assert not any(f"_M{TOKENS}_" in form for form in one.triton)


def test_float32_layers_beside_int8_ones() -> None:
    """Layers that a scheme leaves in float32 are kernels of ours in the same graph."""
    schemes = SchemeMap({"layers.0.*": "float32", "*": "w8a8"})
    nodes = captured(BY_NAME["encoder"].module(), torch.randn(1, TOKENS, 384), schemes)
    assert (dict(nodes.torch), dict(nodes.library)) == ({}, {})
    assert launches(nodes, "linear_float32_") == 4 and launches(nodes, "linear_") == 24


def test_large_layers_of_tokens_have_wide_tiles() -> None:
    model = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2048))
    for scheme in ("w4a16", "w8a16"):
        nodes = captured(model, torch.randn(1, 64, 2048), scheme)
        before = sum(count for name, count in nodes.triton.items() if name.endswith("_cast"))  # x is made bfloat16 once
        assert launches(nodes, "linear_wide_M64_") == 2 and launches(nodes, "linear_rows_bf16_") == before
        assert (dict(nodes.torch), dict(nodes.library)) == ({}, {})


def of_tokens(stage: Stage) -> Stage:
    inputs, outputs = (tuple(replace(v, steps=TOKENS) for v in values) for values in (stage.inputs, stage.outputs))
    return replace(stage, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("op", ["linear", "fused_linear"])
def test_steps_and_samples_are_the_same_rows(op: str) -> None:
    """The same kernel, and the same form of it, for one sample of 32 steps as for 32 samples."""
    stages = {
        "linear": [contract.make_stage(256, 96, "static"), contract.make_stage(1024, 96, "dynamic"),
                   *(contract_weights.make_stage(256, 96, kind) for kind in contract_weights.KINDS)],
        "fused_linear": [fused.make_stage(256, 96, kind, residual=True) for kind in fused.KINDS],
    }[op]  # fmt: skip
    for stage in stages:
        steps = of_tokens(stage)
        for impl in impls("triton", op):
            want, got = impl.supports(Problem.of(stage, TOKENS, "cuda")), impl.supports(Problem.of(steps, 1, "cuda"))
            assert want == got, impl.name


def test_sparse_layers_of_tokens_are_modeled_by_their_rows() -> None:
    stage = contract.make_stage(1024, 1024, "dynamic")
    weight = stage.tensors["weight"].clone()
    weight.view(16, 64, 16, 64)[:, :, 2:] = 0
    stage = replace(stage, tensors={**stage.tensors, "weight": weight})
    steps = of_tokens(stage)
    assert stage.weight_format is WeightFormat.INT8
    samples, tokens = modeled(stage, TOKENS), modeled(steps, 1)
    assert samples.reason == tokens.reason and samples.stage.op == tokens.stage.op
