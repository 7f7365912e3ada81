"""Random graphs at random opsets: the module, and what it compiles to, against ONNX Runtime and the reference of the standard."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import torch
from hypothesis import HealthCheck, given, settings

import rtaccel as rt
from tests.support.onnx_graphs import graphs
from tests.support.onnx_peer import run, worst

pytestmark = pytest.mark.filterwarnings("ignore")
COMMON: dict[str, Any] = {
    "deadline": None, "derandomize": "CI" in os.environ, "print_blob": True, "suppress_health_check": list(HealthCheck),
}  # fmt: skip


def peer(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime joins QuantizeLinear pairs that follow each other into one of another scale, where it optimizes."""
    return run(model, {"x": x}, optimized=all(node.op_type != "QuantizeLinear" for node in model.graph.node))


def near(got: Any, wanted: list[np.ndarray], model: Any) -> None:
    """Five operators of float32, each a sum of at most 2000 products: 2e-5 of the largest value. A QuantizeLinear may round a tie
    that a sum in another order has moved to the other side: a step, and what follows makes of it."""
    steps = any(n.op_type in ("QuantizeLinear", "Floor", "Ceil", "Round", "Sign", "ArgMax", "Greater", "Less", "Equal")
                for n in model.graph.node)  # fmt: skip
    if not steps:
        assert worst(got, wanted) < 2e-5
        return
    have, want = got.double().numpy(), wanted[0].astype(np.float64)
    assert have.shape == want.shape
    size = np.abs(want[np.isfinite(want)]).max(initial=1.0)
    off = ~(np.isclose(have, want, 1e-4, 2e-5 * size, equal_nan=True))
    assert off.mean() < 0.1, (have[off][:4], want[off][:4])


@settings(max_examples=int(os.environ.get("RTACCEL_CASES", 20_000)) // 100, **COMMON)
@given(graphs())
def test_the_module_is_the_graph(made: tuple[Any, np.ndarray]) -> None:
    model, x = made
    module = rt.from_onnx(model)
    with torch.no_grad():
        got = module(torch.from_numpy(x))
    near(got, peer(model, x), model)


@settings(max_examples=int(os.environ.get("RTACCEL_CASES", 20_000)) // 1000, **COMMON)
@given(graphs(longest=4))
def test_what_it_compiles_to(made: tuple[Any, np.ndarray]) -> None:
    """Whole, and with another batch where that is open."""
    model, x = made
    fast = rt.compile(rt.from_onnx(model), (torch.from_numpy(x),))
    near(fast(torch.from_numpy(x)), peer(model, x), model)
    more = np.concatenate([x, -x, x])
    if len(more) in fast.batch:
        near(fast(torch.from_numpy(more)), peer(model, more), model)


@settings(max_examples=int(os.environ.get("RTACCEL_CASES", 20_000)) // 500, **COMMON)
@given(graphs(longest=3))
def test_the_reference_of_the_standard_agrees(made: tuple[Any, np.ndarray]) -> None:
    from onnx.reference import ReferenceEvaluator

    model, x = made
    if model.opset_import[0].version < 14 and any(n.op_type == "BatchNormalization" for n in model.graph.node):
        return  # its older form computes statistics of its own there
    try:
        wanted = ReferenceEvaluator(model).run(None, {"x": x})
    except Exception:
        return  # it does not have every form of every opset
    if wanted[0].shape != run(model, {"x": x})[0].shape:
        return  # nor the sizes that runtimes give
    with torch.no_grad():
        near(rt.from_onnx(model)(torch.from_numpy(x)), [np.asarray(w, np.float32) for w in wanted], model)
