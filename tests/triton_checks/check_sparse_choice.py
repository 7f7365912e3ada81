"""Who chooses the sparse Triton kernels: compiled models and SparseLinear, by the model of time, with the CPU's integers.

As check_kernels.py, started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.formats import masks
from rtaccel.plan import sparse_gpu
from tests.triton_checks.support.sparse_stages import DEVICE, fresh_seed, nan_filled, taking  # noqa: F401

require("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def pruned(n: int, pattern: Any) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 8)).eval()
    with torch.no_grad():
        model[0].weight *= masks.keep(torch.rand(n, n), pattern)
    return model


FORMS = {
    rt.BlockSparse((32, 32), 0.8): "triton_gemv", rt.SemiStructured(): "triton_semi",
}  # fmt: skip


@pytest.mark.parametrize("pattern", FORMS, ids=str)
def test_a_model_takes_the_sparse_kernel_where_the_model_says_so(pattern: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as the dense kernels give; dense where nothing is gained, and said."""
    model, x, data = pruned(96, pattern), torch.randn(1, 96), [torch.randn(64, 96)]
    monkeypatch.setattr(sparse_gpu, "MIN_WEIGHTS", 4096)
    options: dict[str, Any] = {"scheme": "w8a8", "calibration": data}
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda", "mode": "eager"}
    dense = rt.compile(model, (x,), **options, **there)
    assert "is computed dense, which is not slower" in dense.explain(measure=False)
    monkeypatch.setattr(sparse_gpu, "CHAIN_US", -1.0)  # else a layer this small is never worth it
    fast = rt.compile(model, (x,), **options, **there)
    text = fast.explain(measure=False)
    assert "is computed sparse" in text
    assert "no card has confirmed" in text
    assert FORMS[pattern] in [line.kernel for line in fast.explain_lines(measure=False)]
    for rows in (1, 3):
        x = torch.randn(rows, 96).to(DEVICE)
        assert torch.equal(fast(x), dense(x))


def test_the_cpu_gives_the_same_integers() -> None:
    for pattern in (rt.BlockSparse((16, 16), 0.7), rt.SemiStructured(), rt.Unstructured(0.8)):
        layer = rt.nn.SparseLinear.from_float(
            nn.Linear(132, 35), rt.W8A8("static"), [torch.randn(64, 132)], sparsity=pattern
        )
        numbers = layer._params()
        stage = numbers.group(1).stages[-1]
        for rows in (3, 9):
            x = torch.randn(rows, 132)
            quant = stage.inputs[0].quant
            assert quant is not None
            q = rt.formats.int8.quantize(x, quant)
            for impl in taking(stage, rows):
                (y,) = impl.prepare(stage, Problem.of(stage, rows, DEVICE))(q.to(DEVICE))
                assert torch.equal(y.cpu(), layer(x)), impl.name


def test_a_sparse_layer_on_a_card_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SparseLinear asks on CUDA: its own storage, or dense."""
    for pattern in (rt.BlockSparse((16, 16), 0.8), rt.SemiStructured(), rt.Unstructured(0.95)):
        layer = rt.nn.SparseLinear.from_float(nn.Linear(256, 256), rt.W8A8("dynamic"), sparsity=pattern)
        numbers = layer._params()
        group, notes = numbers.chosen(numbers.group(1), 1, "cuda")
        assert group.stages[-1].op == "linear"
        assert "dense, which is not slower" in notes[0]
        with monkeypatch.context() as patch:
            patch.setattr(sparse_gpu, "CHAIN_US", -5.0)
            group, notes = numbers.chosen(numbers.group(1), 1, "cuda")
        assert group.stages[-1].op == "sparse_linear"
        assert group.stages[-1].tensors["weight"] is numbers.weight
        assert "computed sparse" in notes[0]


def test_int4_values_in_2_4_are_chosen_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = pruned(128, rt.SemiStructured()), torch.randn(1, 128)
    options: dict[str, Any] = {"scheme": rt.W4A8(group_size=32), "calibration": [torch.randn(64, 128)]}
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda", "mode": "eager"}
    dense = rt.compile(model, (x,), **options, **there)
    monkeypatch.setattr(sparse_gpu, "MIN_WEIGHTS", 4096)
    monkeypatch.setattr(sparse_gpu, "CHAIN_US", -5.0)
    fast = rt.compile(model, (x,), **options, **there)
    assert "triton_semi_int4" in [line.kernel for line in fast.explain_lines(measure=False)]
    torch.testing.assert_close(fast(x.to(DEVICE)), dense(x.to(DEVICE)), rtol=1e-2, atol=1e-2)


def test_dynamic_rows_are_quantized_in_the_launch_that_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model says so, and the same bits as of two launches, which a wide layer has."""
    model = pruned(96, rt.Unstructured(0.9))
    x = torch.randn(2, 96)
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda", "mode": "eager"}
    monkeypatch.setattr(sparse_gpu, "MIN_WEIGHTS", 4096)
    monkeypatch.setattr(sparse_gpu, "CHAIN_US", -5.0)
    found = {}
    for launch_us in (1.3, -1.0):  # the last: nobody saves a launch that costs nothing
        monkeypatch.setattr(sparse_gpu, "LAUNCH_US", launch_us)
        fast = rt.compile(model, (x,), scheme=rt.W8A8("dynamic"), **there)
        lines = fast.explain_lines(measure=False)
        found[launch_us] = ["fused_sparse_linear" in line.what for line in lines], fast(x.to(DEVICE)).cpu()
        assert ("rows quantized in its launch" in fast.explain(measure=False)) == (launch_us > 0)
    assert any(found[1.3][0])
    assert not any(found[-1.0][0])
    assert torch.equal(found[1.3][1], found[-1.0][1])


def test_rows_of_the_model_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes and gathers alone: what 90 % zeros save, what nothing saves, and that it errs towards dense."""
    n = 2048
    weight = torch.randn(n, n).bfloat16()

    def chosen(pattern: Any, rows: int) -> Any:
        kept = weight * masks.keep(torch.rand(n, n), pattern) if pattern is not None else weight
        return sparse_gpu.modeled(Stage("linear", "l", (Value("x", n),), (Value("y", n),), {"weight": kept}), rows)

    assert chosen(rt.SemiStructured(), 1).stage.attrs["layout"] == "2:4"
    assert not chosen(rt.SemiStructured(), 256).sparse
    assert not chosen(rt.Unstructured(0.9), 64).sparse
    with monkeypatch.context() as patch:  # two launches more are what a layer of this size never saves
        patch.setattr(sparse_gpu, "LAUNCH_US", 0.0)
        assert chosen(rt.BlockSparse((64, 64), 0.9), 16).stage.attrs["layout"] == "blocks"
        assert chosen(rt.Unstructured(0.97), 8).stage.attrs["layout"] == "window"
    nothing = chosen(None, 1)
    assert not nothing.sparse
    assert "0% zeros" in nothing.reason
