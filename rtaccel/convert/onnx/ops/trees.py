"""Sums over decision trees, of the domain `ai.onnx.ml`: what scikit-learn, LightGBM and XGBoost export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.onnx.ops.elementwise import cast_like
from rtaccel.convert.onnx.ops.scores import classified, floats, labelled, of_two, second_above, transformed
from rtaccel.convert.onnx.table import op
from rtaccel.kernels.tree_ensemble import contract
from rtaccel.nn.trees import TREE_ENSEMBLE

_ML = "ai.onnx.ml"
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def summed(x: Tensor, *tables: Tensor, depth: int, strict: bool, factor: float = 1.0) -> Tensor:
    made = TREE_ENSEMBLE(x.float() if x.dtype != torch.float64 else _rounded(x, strict), *tables, depth, strict)
    return made if factor == 1.0 else made * factor


def _rounded(x: Tensor, strict: bool) -> Tensor:
    """Doubles as float32 to the side that the thresholds are rounded to: one that equals its threshold still does. (A number and
    a threshold between the same two neighbors in float32 are equal.)"""
    near = x.float()
    wrong = (near.double() < x) if strict else (near.double() > x)
    return torch.where(wrong, torch.nextafter(near, torch.full_like(near, float("inf" if strict else "-inf"))), near)


def based(x: Tensor, base: Tensor) -> Tensor:
    return x + base


class _Grown:
    """The tables of the operator, while nodes are put in: each tree from its root, level by level."""

    def __init__(self, features: Any, values: np.ndarray, modes: list[str], nan: Any, build: Any) -> None:
        self.features, self.modes = features, modes
        kinds = {mode for mode in modes if mode != "LEAF"}
        if kinds - set(_MODES[:4]):
            build.refuse(f"compares by {', '.join(sorted(kinds - set(_MODES[:4])))}, and trees here by order")
        self.strict = bool(kinds & {"BRANCH_LT", "BRANCH_GTE"})
        if self.strict and kinds & {"BRANCH_LEQ", "BRANCH_GT"}:
            build.refuse(f"mixes {', '.join(sorted(kinds))}, and trees here compare in one way")
        self.thresholds = _in_float32(values, self.strict)
        self.nan = np.zeros(len(modes), bool) if not nan else np.asarray(nan, bool)
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.child: list[list[int]] = []
        self.nan_first: list[int] = []
        self.root: list[int] = []

    def _open(self) -> int:
        self.feature.append(-1)
        self.threshold.append(0.0)
        self.child.append([0, 0])
        self.nan_first.append(0)
        return len(self.feature) - 1

    def tree(self, root: Any, is_leaf: Any, true: Any, false: Any, row: Any, build: Any) -> None:
        """is_leaf, true, false and row: of a node as the file names it. Refuses loops, and nodes that are led to twice."""
        at = self._open()
        self.root.append(at)
        pending, seen = [(root, at)], {root}
        for node, place in pending:
            if is_leaf(node):
                self.child[place] = [row(node), 0]
                continue
            below = self.modes[node] in ("BRANCH_LEQ", "BRANCH_LT")  # the true one is the first
            first, second = (true(node), false(node)) if below else (false(node), true(node))
            self.feature[place], self.threshold[place] = self.features[node], self.thresholds[node]
            self.nan_first[place] = int(bool(self.nan[node]) == below)
            self.child[place] = [self._open(), self._open()]
            for there, new in zip((first, second), self.child[place]):
                if there in seen:
                    build.refuse("leads to a node twice")
                seen.add(there)
                pending.append((there, new))

    def call(self, build: Any, x: Any, value: np.ndarray, factor: float = 1.0) -> Any:
        tables = {
            "feature": np.array(self.feature, "int32"), "threshold": np.array(self.threshold, "float32"),
            "child": np.array(self.child, "int32"), "nan_first": np.array(self.nan_first, "int8"),
            "root": np.array(self.root, "int32"), "value": value.astype("float32"),
        }  # fmt: skip
        tensors = {name: torch.from_numpy(table) for name, table in tables.items()}
        depth = contract.attributes(tensors, self.strict)["depth"]
        constants = (build.constant(tables[name]) for name in contract.TABLES)
        return build.call(summed, x, *constants, depth=depth, strict=self.strict, factor=factor)


def _in_float32(values: np.ndarray, strict: bool) -> np.ndarray:
    """Thresholds that float32 numbers compare with as with these: v <= t is v <= the next number below, v < t the next above."""
    near = values.astype("float32")
    wrong = near < values if strict else near > values
    with np.errstate(over="ignore"):
        return np.where(wrong, np.nextafter(near, np.float32(np.inf if strict else -np.inf)), near)


def _numbers(given: Any, tensor: Any, build: Any) -> np.ndarray:
    """Of an attribute, or of its form as a tensor."""
    known = None if tensor is None else build.known(tensor)
    return np.asarray(given if known is None else known, "float32" if known is None else known.dtype)


def _of_lists(build: Any, ids: Any, targets: int, leaf_ids: Any, kinds: Any, weights: np.ndarray, **nodes: Any) -> Any:
    """(trees, values of leaves) of the lists of the older operators; ids, leaf_ids: (tree, node)."""
    places = {key: i for i, key in enumerate(ids)}
    if len(places) != len(ids):
        build.refuse("has two nodes of one name")
    made = _Grown(nodes["features"], nodes["values"], list(nodes["modes"]), nodes["nan"], build)
    rows = {key: i for i, key in enumerate(dict.fromkeys(leaf_ids))}
    value = np.zeros((len(rows) + 1, targets), "float32")  # the last: of leaves without a weight
    np.add.at(value, ([rows[key] for key in leaf_ids], list(kinds)), weights.astype("float32"))

    def there(node: int, side: Any) -> int:
        key = (ids[node][0], side[node])
        if key not in places:
            build.refuse(f"leads to the node {key}, which is not there")
        return places[key]

    inner = [node for node, mode in enumerate(made.modes) if mode != "LEAF"]
    led = {there(node, side) for node in inner for side in (nodes["true"], nodes["false"])}
    roots: dict[int, int] = {}
    for node, (tree, _) in enumerate(ids):
        if node not in led and roots.setdefault(tree, node) != node:
            build.refuse(f"has two roots in tree {tree}")
    for root in roots.values():
        made.tree(root, lambda n: made.modes[n] == "LEAF", lambda n: there(n, nodes["true"]),
                  lambda n: there(n, nodes["false"]), lambda n: rows.get(ids[n], len(rows)), build)  # fmt: skip
    return made, value


def _nodes(build: Any, nodes: dict[str, Any]) -> dict[str, Any]:
    values = _numbers(nodes.get("nodes_values", ()), nodes.get("nodes_values_as_tensor"), build)
    return {
        "ids": list(zip(nodes["nodes_treeids"], nodes["nodes_nodeids"])), "features": nodes["nodes_featureids"],
        "modes": nodes["nodes_modes"], "values": values, "true": nodes["nodes_truenodeids"],
        "false": nodes["nodes_falsenodeids"], "nan": nodes.get("nodes_missing_value_tracks_true"),
    }  # fmt: skip


@op("TreeEnsembleRegressor", domain=_ML, builds=True)
def regressor(
    build: Any, x: Any, *, n_targets: int = 1, aggregate_function: str = "SUM", post_transform: str = "NONE",
    base_values: Any = (), base_values_as_tensor: Any = None, target_ids: Any, target_nodeids: Any, target_treeids: Any,
    target_weights: Any = (), target_weights_as_tensor: Any = None, **nodes: Any,
) -> Any:  # fmt: skip
    floats(build, x)
    weights = _numbers(target_weights, target_weights_as_tensor, build)
    leaf_ids = list(zip(target_treeids, target_nodeids))
    made, value = _of_lists(
        build, targets=n_targets, leaf_ids=leaf_ids, kinds=target_ids, weights=weights, **_nodes(build, nodes)
    )
    return _aggregated(build, x, made, value, aggregate_function, post_transform,
                       _numbers(base_values, base_values_as_tensor, build))  # fmt: skip


def _aggregated(build: Any, x: Any, made: _Grown, value: np.ndarray, how: str, post: str, base: np.ndarray) -> Any:
    if how not in ("SUM", "AVERAGE"):
        build.refuse(f"takes the {how} of its trees; a sum or an average has a form here")
    y = made.call(build, x, value, 1.0 if how == "SUM" else 1.0 / len(made.root))
    if base.size:
        y = build.call(based, y, build.constant(base.astype("float32")))
    return build.call(transformed, y, how=post)


@op("TreeEnsemble", domain=_ML, since=5, builds=True)
def ensemble(
    build: Any, x: Any, *, n_targets: int = 1, aggregate_function: int = 1, post_transform: int = 0, leaf_targetids: Any,
    leaf_weights: Any, nodes_splits: Any, nodes_modes: Any, nodes_featureids: Any, nodes_truenodeids: Any,
    nodes_trueleafs: Any, nodes_falsenodeids: Any, nodes_falseleafs: Any, tree_roots: Any,
    nodes_missing_value_tracks_true: Any = None, nodes_hitrates: Any = None, membership_values: Any = None,
) -> Any:  # fmt: skip
    """Leaves have a list of their own here: leaf i is the node -1 - i."""
    floats(build, x)
    modes = [_MODES[mode] for mode in build.known(nodes_modes).reshape(-1)]
    made = _Grown(nodes_featureids, build.known(nodes_splits), modes, nodes_missing_value_tracks_true, build)
    weights = build.known(leaf_weights).reshape(-1)
    value = np.zeros((len(weights), n_targets), "float32")
    value[np.arange(len(weights)), list(leaf_targetids)] = weights
    for root in tree_roots:
        both = nodes_trueleafs[root] and nodes_falseleafs[root] and nodes_truenodeids[root] == nodes_falsenodeids[root]
        made.tree(
            -1 - nodes_truenodeids[root] if both else root,  # a tree of one leaf is written so
            lambda n: n < 0,
            lambda n: -1 - nodes_truenodeids[n] if nodes_trueleafs[n] else nodes_truenodeids[n],
            lambda n: -1 - nodes_falsenodeids[n] if nodes_falseleafs[n] else nodes_falsenodeids[n],
            lambda n: -1 - n,
            build,
        )
    y = _aggregated(build, x, made, value, _AGGREGATES[aggregate_function], _TRANSFORMS[post_transform], np.zeros(0))
    return build.call(cast_like, y, x)  # of doubles, doubles: computed in float32 all the same


@op("TreeEnsembleClassifier", domain=_ML, builds=True)
def classifier(
    build: Any, x: Any, *, post_transform: str = "NONE", base_values: Any = (), base_values_as_tensor: Any = None,
    class_ids: Any, class_nodeids: Any, class_treeids: Any, class_weights: Any = (), class_weights_as_tensor: Any = None,
    classlabels_int64s: Any = (), classlabels_strings: Any = (), **nodes: Any,
) -> Any:  # fmt: skip
    floats(build, x)
    classes = len(classlabels_int64s) or len(classlabels_strings)
    weights, base = (
        _numbers(class_weights, class_weights_as_tensor, build),
        _numbers(base_values, base_values_as_tensor, build),
    )
    labels, limit = (classlabels_int64s, classlabels_strings), 0.5 if bool((weights >= 0).all()) else 0.0
    one = classes == 2 and len(set(class_ids)) == 1
    if one and base.size > (0 if class_ids[0] else 1):
        build.refuse(f"has {base.size} base values, and leaves of one of two classes")
    targets = 1 if classes <= 2 and set(class_ids) == {0} else classes
    made, value = _of_lists(
        build, targets=targets, leaf_ids=list(zip(class_treeids, class_nodeids)), kinds=class_ids, weights=weights,
        **_nodes(build, nodes),
    )  # fmt: skip
    scores = made.call(build, x, value)
    if base.size:
        scores = build.call(based, scores, build.constant(base.astype("float32")))
    if not one:
        return classified(build, scores, *labels, post_transform)
    if targets == 1:
        return of_two(build, scores, *labels, post_transform, limit > 0, limit)
    label = labelled(build, build.call(second_above, scores, limit=limit), *labels)
    return label, build.call(transformed, scores, how=post_transform)
