"""One row through an ensemble of decision trees, ours beside ONNX Runtime's, in interleaved rounds: python -m bench.trees

The same file for both: random trees, each split over and over until it is so deep, and rows of random numbers, another row in
each call. ONNX Runtime gets one thread, by its ordinary call and with bound buffers. A figure is the median of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import rtaccel as rt

SIZES = ((20, 4, 8), (100, 6, 12), (100, 10, 30), (500, 6, 30), (1000, 8, 100))
"""Trees, their depth, features."""


def file(trees: int, depth: int, features: int) -> Any:
    """Full trees but for one branch in ten that ends early."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(trees + depth)
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    leaves: list[tuple[int, int]] = []
    for tree in range(trees):
        levels, children = [0], list[tuple[int, int]]()
        for node, level in enumerate(levels):
            ends = level == depth or (level > 1 and rng.random() < 0.1)
            if ends:
                leaves.append((tree, node))
            children.append((0, 0) if ends else (len(levels), len(levels) + 1))
            levels += [] if ends else [level + 1] * 2
            row = (
                tree,
                node,
                int(rng.integers(features)),
                "LEAF" if ends else "BRANCH_LEQ",
                float(rng.normal()),
                *children[-1],
            )
            for name, value in zip(nodes, row):
                nodes[name].append(value)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, **nodes,
        target_treeids=[t for t, _ in leaves], target_nodeids=[n for _, n in leaves], target_ids=[0] * len(leaves),
        target_weights=rng.normal(size=len(leaves)).tolist(),
    )  # fmt: skip
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, w]) for n, w in (("x", features), ("y", 1)))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(helper.make_graph([node], "trees", [x], [y]), opset_imports=opsets, ir_version=10)


def calls(model: Any, rows: np.ndarray) -> dict[str, Callable[[int], Any]]:
    """Name -> a call for the row of a number."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    single = [np.ascontiguousarray(row[None]) for row in rows]
    held, answer = np.empty_like(single[0]), np.empty((1, 1), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, held.shape, held.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, answer.shape, answer.ctypes.data)

    def bound_session(i: int) -> Any:
        held[:] = single[i]
        session.run_with_iobinding(binding)
        return answer

    fast = rt.compile(rt.from_onnx(model), torch.from_numpy(single[0]))
    x, y = torch.empty(held.shape), torch.empty(1, 1)
    view, step = x.numpy(), fast.bind(x, out=y)
    tensors = [torch.from_numpy(row) for row in single]

    def bound(i: int) -> Any:
        view[:] = single[i]
        step()
        return y

    for i in range(0, len(rows), 97):
        want = session.run(None, {"x": single[i]})[0]
        np.testing.assert_allclose(bound(i).numpy(), want, 1e-4, 1e-4)
        np.testing.assert_allclose(bound_session(i), want, 1e-6)
    return {"rtaccel, bound": bound, "rtaccel": lambda i: fast(tensors[i]), "ONNX Runtime, bound": bound_session,
            "ONNX Runtime": lambda i: session.run(None, {"x": single[i]})}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(
        "| trees | depth | features | "
        + " | ".join(("rtaccel, bound", "rtaccel", "ONNX Runtime, bound", "ONNX Runtime"))
        + " |"
    )
    print("|---" * 7 + "|")
    for trees, depth, features in SIZES:
        rows = np.random.default_rng(0).normal(size=(512, features)).astype(np.float32)
        runs, times = calls(file(trees, depth, features), rows), dict[str, list[float]]()
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                for i in range(len(rows)):
                    run(i)
                times.setdefault(name, []).append((time.perf_counter() - start) / len(rows) * 1e6)
        print(
            f"| {trees} | {depth} | {features} | "
            + " | ".join(f"{statistics.median(t):.2f} us" for t in times.values())
            + " |"
        )


if __name__ == "__main__":
    main()
