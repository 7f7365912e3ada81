"""ONNX Runtime as the peer of what is read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def session(model: Any, optimized: bool = True) -> Any:
    """One thread, products of whole numbers that do not overflow, activations of 4-bit layers not rounded: what the file says.
    optimized=False: node by node, as the file has them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    data = model if isinstance(model, (str, bytes)) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model: Any, feeds: Mapping[str, Any] | Sequence[Tensor], optimized: bool = True) -> list[np.ndarray]:
    """Results of a session or a model, for inputs by name or in order."""
    made = model if hasattr(model, "get_inputs") else session(model, optimized)
    names = [entry.name for entry in made.get_inputs()]
    given = dict(feeds) if isinstance(feeds, Mapping) else dict(zip(names, feeds))
    arrays = {n: v.numpy() if isinstance(v, Tensor) else np.asarray(v) for n, v in given.items() if n in names}
    return list(made.run(None, arrays))


def flat(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def worst(got: Any, wanted: Sequence[np.ndarray]) -> float:
    """The largest difference over the largest value, of all results; shapes and dtypes are asserted."""
    found = 0.0
    assert len(flat(got)) == len(wanted)
    for have, want in zip(flat(got), wanted):
        assert tuple(have.shape) == want.shape
        assert have.dtype == torch.from_numpy(np.zeros(1, want.dtype)).dtype
        a, b = have.detach().double().numpy(), want.astype(np.float64)
        assert (np.isnan(a) == np.isnan(b)).all()
        same = np.isnan(a) | (a == b)
        size = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        if not same.all():
            found = max(found, float(np.abs(a - b)[~same].max() / max(size, 1e-30)))
    return found
