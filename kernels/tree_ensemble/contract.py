"""Tree ensemble: y[m, :] = sum over trees of value[leaf(tree, x[m]), :], float32, x [M, F], y [M, T].

Nodes of all trees lie in one table. At a node a tree goes on with `child[node, 0]` where x[feature[node]] <= threshold[node], or
where it is < with attrs["strict"] = 1; else with `child[node, 1]`. NaN goes to the first child where nan_first[node] is 1,
else to the second. Children come behind their node, and each node has one parent, or is a root. A leaf has feature -1, and
`child[node, 0]` is its row of value.

    feature int32 [N], threshold float32 [N], child int32 [N, 2], nan_first int8 [N], root int32 [trees], value float32 [L, T]

The way through a tree is exact. The sum rounds once a tree, in an order of the kernel's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import STREAMS_ROWS
from rtaccel.core.stage import Problem, Stage, Value

TABLES = ("feature", "threshold", "child", "nan_first", "root", "value")
_DTYPES = (torch.int32, torch.float32, torch.int32, torch.int8, torch.int32, torch.float32)


def require_trees(op: str, tables: Mapping[str, Tensor], features: int, targets: int) -> None:
    """Raises FormatError where the tables are not trees over so many features with so many targets."""
    feature, threshold, child, _, root, value = (tables[name] for name in TABLES)
    nodes = feature.numel()
    shapes = {"feature": (nodes,), "threshold": (nodes,), "child": (nodes, 2), "nan_first": (nodes,), "root": (root.numel(),),
              "value": (len(value) if value.dim() else 0, targets)}  # fmt: skip
    for (name, shape), dtype in zip(shapes.items(), _DTYPES):
        if tuple(tables[name].shape) != shape or tables[name].dtype != dtype:
            got = f"{name} {str(tables[name].dtype).removeprefix('torch.')}{list(tables[name].shape)}"
            raise _wrong(op, got, f"{str(dtype).removeprefix('torch.')}{list(shape)}")
    if not nodes or not root.numel():
        raise _wrong(op, f"{root.numel()} trees of {nodes} nodes", "one tree at least, of one node at least")
    leaf, at = feature < 0, torch.arange(nodes, device=feature.device, dtype=torch.int64)
    inner = child[~leaf].long()
    if bool((feature >= features).any()) or bool((feature < -1).any()):
        raise _wrong(op, f"feature {int(feature.max())}", f"-1 for leaves, or 0..{features - 1}")
    if bool((inner <= at[~leaf, None]).any()) or bool((inner >= nodes).any()):
        raise _wrong(op, "a child that does not lie behind its node", f"children of node i in i+1..{nodes - 1}")
    rows = child[leaf, 0].long()
    if bool(((rows < 0) | (rows >= len(value))).any()):
        raise _wrong(op, "a leaf without a row of value", f"rows in 0..{len(value) - 1}")
    if bool(threshold[~leaf].isnan().any()):
        raise _wrong(op, "a threshold that is NaN", "numbers, or infinities")
    if bool(((root < 0) | (root >= nodes)).any()):
        raise _wrong(op, "a root that is no node", f"roots in 0..{nodes - 1}")
    parents = torch.bincount(torch.cat([inner.reshape(-1), root.long()]), minlength=nodes)
    if bool((parents > 1).any()):
        raise _wrong(op, f"{int(parents.max())} parents of a node", "one, or none of a root")


def _wrong(op: str, got: str, expected: str) -> FormatError:
    return FormatError(op, got, expected, "Correct the tables of the trees.")


def depth_of(feature: Tensor, child: Tensor, root: Tensor) -> int:
    """Of the deepest tree: how many comparisons lead to its last leaf."""
    depth, nodes = 0, root.long()
    while (inner := nodes[feature[nodes] >= 0]).numel():
        nodes, depth = child[inner].reshape(-1).long(), depth + 1
    return depth


def leaves(x: Tensor, tables: Mapping[str, Tensor], attrs: Mapping[str, int]) -> Tensor:
    """Rows of `value` that x [M, F] comes to, [M, trees]."""
    feature, threshold, child = (tables[name] for name in ("feature", "threshold", "child"))
    at = tables["root"].long().expand(x.shape[0], -1)
    for _ in range(attrs["depth"]):
        v = x.gather(1, feature[at].clamp(min=0).long())
        below = v < threshold[at] if attrs["strict"] else v <= threshold[at]
        first = torch.where(v.isnan(), tables["nan_first"][at] != 0, below)
        there = torch.where(first, child[at, 0], child[at, 1]).long()
        at = torch.where(feature[at] < 0, at, there)
    return child[at, 0].long()


def sums(
    x: Tensor, tables: Mapping[str, Tensor], attrs: Mapping[str, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    return tables["value"].to(dtype)[leaves(x, tables, attrs)].sum(1)


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises FormatError for tables that are no trees, or not those of the attributes."""
    require_trees("tree_ensemble", stage.tensors, stage.inputs[0].width, stage.outputs[0].width)
    low: dict[str, Any] = {name: stage.tensors[name] for name in TABLES}
    want = attributes(low, bool(stage.attrs.get("strict", 0)))
    if want != dict(stage.attrs):
        raise _wrong("tree_ensemble", f"attributes {dict(stage.attrs)}", f"{want}")
    return {**low, "strict": want["strict"]}


def attributes(tables: Mapping[str, Tensor], strict: bool) -> dict[str, int]:
    """Of a stage with these tables: how it compares, and what its cost depends on."""
    depth = depth_of(tables["feature"], tables["child"], tables["root"])
    return {"trees": tables["root"].numel(), "depth": depth, "strict": int(strict)}


def check(asks: str, stage: Stage, tensors: Mapping[str, Tensor]) -> None:
    require_trees(asks, {**stage.tensors, **tensors}, stage.inputs[0].width, stage.outputs[0].width)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    low = lower(stage)
    return (sums(x, low, stage.attrs, torch.float64).float(),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """u: the unit of float32. A sum of n numbers in any order is off by at most n u times the sum of their magnitudes."""
    low, u = lower(stage), torch.finfo(torch.float32).eps
    found = low["value"].double().abs()[leaves(x, low, stage.attrs)].sum(1)
    return Tolerance(atol=(low["root"].numel() + 1) * u * found + 1e-37)


def random_tables(trees: int, features: int, targets: int, depth: int, seed: int = 0) -> dict[str, Tensor]:
    """Trees that are grown at random, so that they have branches of all lengths, and one leaf some of them."""
    g = torch.Generator().manual_seed(seed)
    feature: list[int] = []
    child: list[list[int]] = []
    roots: list[int] = []
    rows = 0
    for tree in range(trees):
        roots.append(len(feature))
        open_nodes = [(len(feature), 0)]
        feature.append(-1)
        child.append([0, 0])
        for node, level in open_nodes:  # grows while it is walked
            if level == depth or (level and torch.rand(1, generator=g) < 0.15) or (not level and tree % 7 == 6):
                child[node], rows = [rows, rows], rows + 1
                continue
            feature[node] = int(torch.randint(features, (1,), generator=g))
            child[node] = [len(feature), len(feature) + 1]
            for _ in range(2):
                open_nodes.append((len(feature), level + 1))
                feature.append(-1)
                child.append([0, 0])
    n = len(feature)
    return {
        "feature": torch.tensor(feature, dtype=torch.int32), "threshold": torch.randn(n, generator=g),
        "child": torch.tensor(child, dtype=torch.int32), "nan_first": torch.randint(2, (n,), generator=g).to(torch.int8),
        "root": torch.tensor(roots, dtype=torch.int32), "value": torch.randn(rows, targets, generator=g),
    }  # fmt: skip


def make_stage(
    trees: int, features: int, targets: int = 1, depth: int = 6, steps: int = 1, strict: bool = False
) -> Stage:
    tables = random_tables(trees, features, targets, depth, trees + features + targets)
    x, y = Value("x", features, steps=steps), Value("y", targets, steps=steps)
    return Stage("tree_ensemble", "case", (x,), (y,), tables, attributes(tables, strict))


def cases() -> Iterator[Case]:
    for m, trees, features, targets, depth, steps in (
        (1, 1, 1, 1, 0, 1), (3, 1, 2, 1, 3, 1), (1, 9, 5, 1, 4, 1), (2, 17, 33, 3, 6, 1), (5, 40, 12, 1, 5, 3),
        (33, 8, 7, 2, 2, 1), (1, 100, 20, 1, 9, 1), (4, 11, 3, 17, 5, 2),
    ):  # fmt: skip
        stage = make_stage(trees, features, targets, depth, steps, strict=trees % 2 == 0)

        def make(seed: int, m: int = m, stage: Stage = stage) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed(seed)
            x = torch.randn(m * stage.inputs[0].steps, stage.inputs[0].width, generator=g)
            picked = torch.rand(x.shape, generator=g)
            at = torch.randint(stage.tensors["threshold"].numel(), x.shape, generator=g)
            x = torch.where(picked < 0.2, stage.tensors["threshold"][at], x)  # equal to a threshold
            x[picked > 0.97] = float("nan")
            x[(picked > 0.94) & (picked < 0.95)] = float("inf")
            return (x,)

        yield Case(f"M{m}-trees{trees}-F{features}-T{targets}-depth{depth}-steps{steps}", stage, make)


def cost(problem: Problem) -> Cost:
    """16 bytes and a comparison a level, as if all leaves were the deepest."""
    rows, targets, trees = problem.matrix_rows, problem.out_widths[0], problem.attrs["trees"]
    visits = trees * problem.attrs["depth"]
    moved = 4 * (problem.in_widths[0] + targets + trees * targets) + 16 * visits
    return Cost(bytes=rows * moved, flops=rows * (visits + trees * targets))


OPERATOR = register_operator(
    Operator(
        name="tree_ensemble",
        axes={"x": ("M", "F"), "feature": ("N",), "threshold": ("N",), "child": ("N", "2"), "nan_first": ("N",),
              "root": ("trees",), "value": ("L", "T"), "y": ("M", "T")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        check=check,
        make_stage=make_stage,
        streaming=STREAMS_ROWS,
    )
)  # fmt: skip
