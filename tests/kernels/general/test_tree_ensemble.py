"""Tree ensembles: every kernel against a walk in plain Python, with ties, NaN and infinities; tables that are no trees."""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem, Stage, Value
from rtaccel.kernels._core import cpu
from rtaccel.kernels.tree_ensemble import contract
from rtaccel.plan.group import Subgraph
from tests.support.one_stage import check_no_samples, check_samples_apart, kernels, runs


def walked(tables: dict[str, Tensor], strict: bool, x: Tensor) -> Tensor:
    """Sums in float64, one node at a time."""
    feature, child, threshold = (tables[n].tolist() for n in ("feature", "child", "threshold"))
    nan_first, value = tables["nan_first"].tolist(), tables["value"].double()
    made = torch.zeros(len(x), value.shape[1], dtype=torch.float64)
    for m, row in enumerate(x.tolist()):
        for node in tables["root"].tolist():
            while feature[node] >= 0:
                v = row[feature[node]]
                first = (
                    nan_first[node] == 1 if math.isnan(v) else (v < threshold[node] if strict else v <= threshold[node])
                )
                node = child[node][0 if first else 1]
            made[m] += value[child[node][0]]
    return made


def inputs(stage: Any, rows: int, seed: int) -> Tensor:
    """Random rows with numbers that are thresholds, with NaN and infinities."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, stage.inputs[0].width, generator=g)
    kind, at = torch.rand(x.shape, generator=g), torch.randint(stage.tensors["threshold"].numel(), x.shape, generator=g)
    x = torch.where(kind < 0.3, stage.tensors["threshold"][at], x)
    for low, odd in ((0.7, math.nan), (0.8, math.inf), (0.9, -math.inf)):
        x[(kind > low) & (kind < low + 0.05)] = odd
    return x


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("trees", "features", "targets", "depth"), [
    (1, 1, 1, 0), (1, 1, 1, 1), (7, 3, 1, 3), (8, 5, 2, 4), (9, 40, 1, 6), (33, 2, 5, 7), (120, 17, 1, 5), (3, 9, 1, 14),
])  # fmt: skip
def test_is_the_walk(trees: int, features: int, targets: int, depth: int, strict: bool) -> None:
    stage = contract.make_stage(trees, features, targets, depth, strict=strict)
    for rows in (1, 2, 29):
        x = inputs(stage, rows, trees + rows)
        want = walked(dict(stage.tensors), strict, x)
        limit = contract.tolerance(stage, x).atol
        for name, run in runs(stage, rows).items():
            got = run(x)[0].double()
            assert bool(((got - want).abs() <= limit).all()), (name, rows, (got - want).abs().max())


def test_infinite_thresholds() -> None:
    """x <= inf holds for inf, and x < inf does not; x <= -inf holds for -inf alone."""
    for strict in (False, True):
        stage = contract.make_stage(40, 3, 1, 4, strict=strict)
        t = stage.tensors["threshold"]
        t[torch.rand(t.shape) < 0.3] = math.inf
        t[torch.rand(t.shape) < 0.3] = -math.inf
        x = torch.tensor(
            [[a, b, c] for a in (math.inf, -math.inf, 0.0) for b in (math.inf, -math.inf) for c in (math.nan, 1.0)]
        )
        want = walked(dict(stage.tensors), strict, x)
        for name, run in runs(stage, len(x)).items():
            torch.testing.assert_close(run(x)[0].double(), want, rtol=1e-5, atol=1e-5, msg=name)


def test_a_tree_of_many_nodes() -> None:
    """More than 65,536 nodes, or features: nodes have wider numbers then."""
    tables, width = contract.random_tables(1, 9, 1, 3, 1), 70_000
    wide = {**tables, "feature": torch.where(tables["feature"] < 0, -1, tables["feature"] + width - 9).int()}
    n = 66_001  # one long branch: a leaf beside each node
    inner = torch.arange(n) % 2 == 0
    inner[-1] = False
    long = {
        "feature": torch.where(inner, torch.arange(n) % 5, -1).int(), "threshold": torch.linspace(3, -3, n),
        "child": torch.where(inner[:, None], torch.stack([torch.arange(n) + 2, torch.arange(n) + 1], 1),
                             torch.arange(n)[:, None]).int(),
        "nan_first": torch.zeros(n, dtype=torch.int8), "root": torch.zeros(1, dtype=torch.int32), "value": torch.randn(n, 1),
    }  # fmt: skip
    for tables, features in ((wide, width), (long, 5)):
        stage = Stage(
            "tree_ensemble",
            "case",
            (Value("x", features),),
            (Value("y", 1),),
            tables,
            contract.attributes(tables, False),
        )
        x = torch.randn(3, features)
        x[2, -3] = math.nan
        want = walked(tables, False, x)
        for name, kernel in kernels(stage, 3).items():
            assert torch.equal(kernel(x)[0].double(), want), name


def test_samples_apart() -> None:
    stage = contract.make_stage(30, 4, 2, 6)
    check_samples_apart(stage, (inputs(stage, 3, 1).nan_to_num(0.5, 1.0, -1.0),))
    check_no_samples(stage)


BROKEN = {
    "a feature that is not there": lambda t: t["feature"].__setitem__(0, 99),
    "a feature below -1": lambda t: t["feature"].__setitem__(0, -2),
    "a child before its node": lambda t: t["child"].__setitem__((0, 0), 0),
    "a child behind the end": lambda t: t["child"].__setitem__((0, 1), 10**6),
    "a child of two nodes": lambda t: t["child"].__setitem__((0, 0), int(t["child"][0, 1])),
    "a leaf without values": lambda t: t["child"].__setitem__((int((t["feature"] < 0).nonzero()[0]), 0), 10**6),
    "a leaf with a negative row": lambda t: t["child"].__setitem__((int((t["feature"] < 0).nonzero()[0]), 0), -1),
    "a root that is no node": lambda t: t["root"].__setitem__(0, -1),
    "a root that is a child": lambda t: t["root"].__setitem__(1, int(t["child"][0, 0])),
    "a threshold that is NaN": lambda t: t["threshold"].__setitem__(0, math.nan),
    "tables of other lengths": lambda t: t.__setitem__("threshold", t["threshold"][1:]),
    "no trees": lambda t: t.__setitem__("root", t["root"][:0]),
}


def module(tables: dict[str, Tensor], features: int = 5, **more: Any) -> rt.nn.TreeEnsemble:
    return rt.nn.TreeEnsemble(features, tables["feature"], tables["threshold"], tables["child"], tables["value"], tables["root"],
                              tables["nan_first"], **more)  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_tables_that_are_no_trees(name: str) -> None:
    """Refused when they are made, and when a compiled model is given them."""
    tables = contract.random_tables(6, 5, 1, 4)
    good = rt.compile(module(tables), torch.randn(1, 5))
    x = torch.randn(3, 5)
    want, state = good(x), good.state_dict()
    bad = {n: t.clone() for n, t in tables.items()}
    BROKEN[name](bad)
    with pytest.raises(rt.FormatError):
        module(bad)
    keys = {n: next(k for k in state if k.split(".")[-1] == n) for n in contract.TABLES}
    with pytest.raises(rt.FormatError):
        good.load_state_dict({**state, **{keys[n]: t for n, t in bad.items()}})
    assert torch.equal(good(x), want)


def test_other_trees_are_loaded() -> None:
    """As many nodes in a deeper tree: the module walks to its leaves, and so does what is compiled of it afterwards."""
    leaf, values = [0, 0], torch.arange(4.0)[:, None]
    made = []
    for feature, child in (
        ([0, 1, 1, -1, -1, -1, -1], [[1, 2], [3, 4], [5, 6], leaf, [1, 0], [2, 0], [3, 0]]),
        ([0, -1, 1, -1, 2, -1, -1], [[1, 2], leaf, [3, 4], [1, 0], [5, 6], [2, 0], [3, 0]]),
    ):
        made.append(
            rt.nn.TreeEnsemble(3, torch.tensor(feature), torch.zeros(7), torch.tensor(child), values, torch.tensor([0]))
        )
    shallow, deep = made
    x = torch.randn(64, 3)
    assert (shallow.depth, deep.depth) == (2, 3) and not torch.equal(shallow(x), deep(x))
    before = copy.deepcopy(shallow.state_dict())
    shallow.load_state_dict(deep.state_dict())
    assert torch.equal(shallow(x), deep(x)) and torch.equal(rt.compile(shallow, x)(x), deep(x))
    shallow.load_state_dict(before)
    assert shallow.depth == 2
    bad = {**before, "root": torch.tensor([7], dtype=torch.int32)}
    with pytest.raises(rt.FormatError, match="root that is no node"):
        shallow.load_state_dict(bad)
    with pytest.raises(RuntimeError, match="size mismatch"):
        shallow.load_state_dict({**before, "root": torch.tensor([0, 1], dtype=torch.int32)})
    assert all(torch.equal(t, before[n]) for n, t in shallow.state_dict().items())


@pytest.mark.parametrize("name", [n for n in BROKEN if n not in ("a threshold that is NaN", "tables of other lengths")])
def test_the_core_refuses_them_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be forged: what the contract refuses, the plan in C++ refuses by itself."""
    stage = contract.make_stage(6, 5, 1, 4)
    problem, native = Problem.of(stage, 1), impls("cpu", "tree_ensemble")
    tables = {n: t.clone() for n, t in stage.tensors.items()}
    BROKEN[name](tables)
    told = replace(contract.OPERATOR, lower=lambda stage: {**tables, "strict": 0})
    monkeypatch.setattr(cpu, "operator", lambda op: told)
    for kernel in native:
        with pytest.raises(rt.UnsupportedProblem, match="It said: tree_ensemble"):
            kernel.prepare(stage, problem)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_within_a_model(scheme: str) -> None:
    """Beside layers, over rows of several time steps, saved and loaded."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.trees = nn.Linear(8, 5), module(contract.random_tables(20, 5, 2, 5), strict=True)
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trees(torch.tanh(self.features(x))))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 4, 8)
    fast = rt.compile(net, x, scheme, calibration=[torch.randn(64, 4, 8)])
    assert fast.native[0] == fast.native[1]
    assert "tree_ensemble" in fast.explain(measure=False)
    if scheme == "float32":
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("trees", "targets", "rows"), [(100, 1, 1), (500, 3, 16)])
def test_a_graph_on_a_gpu_has_one_kernel(trees: int, targets: int, rows: int) -> None:
    """None of PyTorch's."""
    from bench.zoo.captured import capture

    stage = contract.make_stage(trees, 12, targets)
    ends = (tuple(GraphIO(v, 1, v.shape) for v in values) for values in (stage.inputs, stage.outputs))
    nodes, _ = capture(Subgraph((stage,), *ends), rows)
    assert sum(nodes.triton.values()) == 1 and not nodes.torch and not nodes.library and not nodes.copies


def test_a_file(tmp_path: Any) -> None:
    net, x = module(contract.random_tables(20, 5, 2, 5)), torch.randn(3, 5)
    fast = rt.compile(net, x)
    loaded = rt.load(rt.save(fast, tmp_path / "trees.rta"))
    assert (loaded(x.numpy()) == fast(x).numpy()).all()


def test_a_module_says_what_is_wrong() -> None:
    net = module(contract.random_tables(3, 5, 1, 2))
    for bad in (torch.randn(2, 4), torch.randn(2, 5).double(), torch.tensor(1.0)):
        with pytest.raises(rt.ShapeError, match="TreeEnsemble"):
            net(bad)
