"""What one GPU kernel computes together: found where nothing else reads the value between, and the same numbers."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import impls, operators
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels.mlp import contract as mlp
from rtaccel.kernels.quantize import contract as quantize
from rtaccel.kernels.recurrent import cases
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.plan.choose import Choice
from rtaccel.plan.fuse import fuse
from rtaccel.plan.nan_marks import marked_values
from rtaccel.runtime.compiled import CompiledModel

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def group_of(
    model: nn.Module, inputs: tuple[Tensor, ...], scheme: str, calibrated: bool
) -> tuple[Sequence[Stage], list[Value]]:
    calibration = [tuple(torch.randn(32, t.shape[1]) for t in inputs)] if calibrated else None
    made = rt.compile(model, inputs, scheme=scheme, calibration=calibration, backend="portable")
    assert isinstance(made, CompiledModel)
    (step,) = made._program.steps
    assert isinstance(step, SubgraphStep)
    return step.group.stages, [p.value for p in step.group.outputs]


def run(stages: Sequence[Stage], given: dict[str, Tensor], names: list[str]) -> list[Tensor]:
    """By the references of the contracts."""
    env = dict(given)
    for stage in stages:
        results = operators()[stage.op].reference(stage, *(env[v.name] for v in stage.inputs))
        env.update(zip((v.name for v in stage.outputs), results))
    return [env[n] for n in names]


def assert_same(stages: Sequence[Stage], fused: Sequence[Stage], outputs: list[Value]) -> None:
    made = {v.name for s in stages for v in s.outputs}
    sources = {v.name: v for s in stages for v in s.inputs if v.name not in made}
    given = {name: torch.randn(3, v.width) for name, v in sources.items()}
    names = [v.name for v in outputs]
    for got, want in zip(run(fused, given, names), run(stages, given, names)):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


class Residual(nn.Module):
    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.keep = keep

    def forward(self, x: Tensor) -> object:
        h = torch.relu(self.a(x))
        t = self.b(h)
        y = self.c(x + t)
        return (y, t) if self.keep else y


@pytest.mark.parametrize(
    ("scheme", "calibrated", "ops"),
    [
        ("w8a8", False, ["fused_linear"] * 3),
        ("w8a16", False, ["linear", "fused_linear", "linear"]),
        ("w4a8", False, ["fused_linear"] * 3),
        ("float32", False, ["linear", "linear", "pointwise", "linear"]),
    ],
)
def test_rows_and_residuals_are_fused(scheme: str, calibrated: bool, ops: list[str]) -> None:
    stages, outputs = group_of(Residual().eval(), (torch.randn(1, 16),), scheme, calibrated)
    fused = fuse(stages, outputs, 1)
    assert [s.op for s in fused] == ops
    assert_same(stages, fused, outputs)


def test_a_value_that_is_read_elsewhere_stays() -> None:
    stages, outputs = group_of(Residual(keep=True).eval(), (torch.randn(1, 16),), "w8a16", False)
    fused = fuse(stages, outputs, 1)
    assert [s.op for s in fused] == [s.op for s in stages]
    assert "pointwise" in [s.op for s in fused]


def chain(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def test_a_chain_of_static_layers_is_one_stage() -> None:
    stages, outputs = group_of(chain(12, 40, 24, 6), (torch.randn(1, 12),), "w8a8", True)
    fused = fuse(stages, outputs, 1)
    assert [s.op for s in fused] == ["mlp"]
    assert fused[0].attrs["widths"] == (12, 40, 24, 6)
    assert_same(stages, fused, outputs)


def test_a_chain_in_int4_is_one_stage_and_mixed_ones_are_not_joined() -> None:
    stages, outputs = group_of(chain(12, 40, 24, 6), (torch.randn(1, 12),), "w4a8", True)
    fused = fuse(stages, outputs, 1)
    assert [s.op for s in fused] == ["mlp"]
    assert fused[0].attrs["group_size"] == 32
    model = chain(12, 40, 24, 6)
    made = rt.compile(
        model, (torch.randn(1, 12),), {"0": "w8a8", "2": "w4a8", "4": "w4a8"}, calibration=[torch.randn(32, 12)],
        backend="portable",
    )  # fmt: skip
    (step,) = made._program.steps
    assert [s.op for s in fuse(step.group.stages, [p.value for p in step.group.outputs], 1)] == ["fused_linear"] + 2 * [
        "linear"
    ]


def test_chains_that_do_not_fit_stay_layers() -> None:
    stages, outputs = group_of(chain(12, 40, 6), (torch.randn(1, 12),), "w8a8", True)
    inside = ["fused_linear", "linear"]
    assert [s.op for s in fuse(stages, outputs, 64)] == inside  # many rows: tensor cores
    wide, wide_outputs = group_of(chain(12, 1030, 1030, 6), (torch.randn(1, 12),), "w8a8", True)
    assert [s.op for s in fuse(wide, wide_outputs, 1)] == [*inside, "linear"]
    assert [s.op for s in fuse(wide, wide_outputs, 1, whole=True)] == ["mlp"]
    dynamic, dynamic_outputs = group_of(chain(12, 40, 6), (torch.randn(1, 12),), "w8a8", False)
    assert "mlp" not in [s.op for s in fuse(dynamic, dynamic_outputs, 1)]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_x_is_quantized_in_a_layer(scheme: str) -> None:
    """With the same scale, and the same numbers; not where another stage reads the int8 numbers too."""
    stages, outputs = group_of(Residual().eval(), (torch.randn(1, 16),), scheme, True)
    fused = fuse(stages, outputs, 1)
    quantizers = [s for s in stages if s.op == "quantize"]
    assert quantizers and not any(s.op == "quantize" for s in fused)
    inside = [s for s in fused if s.attrs.get("input_format") == "static"]
    assert [(s.attrs["x_scale"], s.attrs["x_zero_point"]) for s in inside] == [
        (s.outputs[0].quant.scale, s.outputs[0].quant.zero_point) for s in quantizers if s.outputs[0].quant
    ]
    assert_same(stages, fused, outputs)
    read = [quantizers[0].outputs[0], *outputs]
    assert "quantize" in [s.op for s in fuse(stages, read, 1)]


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_x_is_quantized_in_a_recurrent_stage(op: str) -> None:
    """Where nothing else reads it, with the same scale: the same bits."""
    gates = {"lstm": 4, "gru": 3}[op]
    stack = cases.make_stage(op, gates, Geometry(9, layers=2, time=3), 6, "int8-static", "int8", states=False)
    x, q = Value("x", 6, steps=3), stack.inputs[0]
    source = Stage("quantize", "q", (x,), (replace(q, name="q"),))
    stages = (source, replace(stack, inputs=(replace(q, name="q"),)))
    (fused,) = fuse(stages, list(stack.outputs), 1)
    assert fused.inputs == (x,) and fused.attrs["x_zero_point"] == q.quant.zero_point
    given = {"x": torch.randn(2, 3, 6)}
    rows = quantize.reference(source, given["x"].reshape(-1, 6))[0].reshape(2, 3, 6)
    (want,) = operators()[op].reference(stages[1], rows)
    (got,) = run([fused], given, [stack.outputs[0].name])
    assert torch.equal(got, want)
    assert len(fuse(stages, [*stack.outputs, source.outputs[0]], 1)) == 2


class Window(nn.Module):
    """A recurrent stack over a window, and layers behind its newest time step."""

    def __init__(self, stack: nn.RNNBase, *layers: nn.Module) -> None:
        super().__init__()
        self.stack, self.layers = stack, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.stack(x)[0][:, -1])


HEADS: dict[str, tuple[tuple[nn.Module, ...], list[str]]] = {
    "linear": ((nn.Linear(12, 3),), ["fused_linear"]),
    "chain": ((nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), ["mlp"]),
    "gelu": ((nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 3)), ["fused_linear", "fused_linear"]),
    "kept": ((nn.Linear(12, 4100), nn.ReLU(), nn.Linear(4100, 3)), ["linear", "linear"]),
}
"""The last one's hidden values have their scale in a multiplier: they would be other numbers."""


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_a_head_reads_float32_where_that_saves_a_launch(op: str, head: str) -> None:
    layers, ops = HEADS[head]
    model = Window({"lstm": nn.LSTM, "gru": nn.GRU}[op](6, 12, batch_first=True), *layers).eval()
    data = [torch.randn(8, 5, 6) for _ in range(2)]
    made = rt.compile(model, (torch.randn(2, 5, 6),), scheme="w8a8", calibration=data, backend="portable")
    (step,) = made._program.steps
    stages, outputs = step.group.stages, [p.value for p in step.group.outputs]
    fused = fuse(stages, outputs, 2)
    assert [s.op for s in fused] == [op, *ops]
    assert bool(marked_values(fused, outputs)) == (head == "kept")
    given = {stages[0].inputs[0].name: torch.randn(2, *stages[0].inputs[0].shape)}
    (got,), (want,) = (rows_of(found, given, outputs[0].name) for found in (fused, stages))
    assert torch.equal(got, want)
    several = [stages[-2].outputs[0], *outputs]  # who reads an int8 value outside wants it
    assert [s.op for s in fuse(stages, several, 2)][-1] == "linear"


def test_no_launch_is_saved_where_a_layer_rounds_in_one_of_its_own() -> None:
    """64 rows of 1024: what looks at x costs no more."""
    stages, outputs = group_of(
        nn.Sequential(nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 3)).eval(),
        (torch.randn(1, 1024),),
        "w8a8",
        True,
    )
    for rows, ops in ((1, ["fused_linear", "fused_linear"]), (64, ["fused_linear", "linear"])):
        assert [s.op for s in fuse(stages, outputs, rows)] == ops


def rows_of(stages: Sequence[Stage], given: dict[str, Tensor], name: str) -> list[Tensor]:
    """As `run`, of stages some of which take rows and others samples."""
    env = dict(given)
    for stage in stages:
        by_row = operators()[stage.op].by_row
        xs = [env[v.name].reshape(-1, v.width) if by_row else env[v.name] for v in stage.inputs]
        results = operators()[stage.op].reference(stage, *xs)
        env.update((v.name, y.reshape(-1, *v.shape)) for v, y in zip(stage.outputs, results))
    return [env[name]]


def test_a_chain_whose_parts_do_not_fit_is_refused() -> None:
    made = mlp.make_stage((4, 8, 3), ("relu", "none"))
    for attrs in (
        {**made.attrs, "activations": ("gelu", "none")},
        {**made.attrs, "scales": (1.0,)},
        {
            **made.attrs,
            "activations": ("none",),
            "parameters": (0.0,),
            "scales": (1.0,),
            "zero_points": (0,),
            "widths": (4, 3),
        },
    ):
        with pytest.raises(FormatError, match="mlp"):
            mlp.split(Stage("mlp", "x", made.inputs, made.outputs, made.tensors, attrs))


def test_a_choice_places_the_weights_of_plain_torch() -> None:
    stage = operators()["linear"]
    (case, *_) = [c for c in stage.cases() if c.id.startswith("M4-") and "static" in c.id]
    (impl,) = impls("portable", "linear")
    inputs = case.make(0)
    call = Choice(case.stage, Problem.of(case.stage, 4, "meta"), impl, ()).prepare()
    assert call(*(t.to("meta") for t in inputs))[0].device.type == "meta"


ON_DEVICE = [
    "linear", "quantize", "fused_linear", "mlp", "pointwise", "norm", "softmax", "conv", "pool", "attention", "position",
    "lstm", "gru", "concat", "rearrange",
]  # fmt: skip
"""Embedding is left out: it looks at its indices, and meta has no numbers."""


@pytest.mark.parametrize("op", ON_DEVICE)
def test_plain_torch_keeps_everything_on_the_device(op: str) -> None:
    """On torch's `meta` device, which refuses a tensor of the CPU beside its own, as a GPU does."""
    ran = 0
    for case in itertools.islice(operators()[op].cases(), 0, 12, 4):
        if op == "position" and case.stage.attrs.get("stream"):
            continue  # it looks at the count of its steps
        inputs = case.make(0)
        tensors = {name: t.to("meta") for name, t in case.stage.tensors.items()}
        stage = replace(case.stage, tensors=tensors)
        for impl in impls("portable", op):
            try:
                call = impl.prepare(stage, Problem.of(stage, inputs[0].shape[0], "meta"))
            except RuntimeError as error:
                if "meta tensor" in str(error) or "Tensor.item()" in str(error):
                    continue  # its preparation looks at numbers, which meta has not
                raise
            results = call(*(t.to("meta") for t in inputs))
            assert all(r.device.type == "meta" for r in results)
            ran += 1
    assert ran
