"""Sums over decision trees: TreeEnsembleRegressor of the domain `ai.onnx.ml`."""

from __future__ import annotations

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import ML, Writer, cpu
from rtaccel.kernels.tree_ensemble import contract


@form("tree_ensemble")
def tree_ensemble(w: Writer, stage: Stage) -> None:
    """Nodes are numbered within their tree, and each leaf has a weight for each target. Nodes of no tree are left out."""
    tables = {name: cpu(table) for name, table in contract.lower(stage).items() if name in contract.TABLES}
    trees = _trees(tables["feature"], tables["child"], tables["root"])
    order = np.argsort(trees, kind="stable")
    node = order[trees[order] >= 0]
    tree, feature, value = trees[node], tables["feature"][node], tables["value"]
    leaf, targets = feature < 0, value.shape[1]
    number = np.zeros(len(trees), np.int64)
    number[node] = np.arange(len(node)) - np.searchsorted(tree, tree)
    first, second = number[np.where(leaf[:, None], node[:, None], tables["child"][node])].T
    below = "BRANCH_LT" if stage.attrs["strict"] else "BRANCH_LEQ"
    lists = {
        "nodes_treeids": tree, "nodes_nodeids": number[node], "nodes_featureids": np.where(leaf, 0, feature),
        "nodes_values": np.where(leaf, 0.0, tables["threshold"][node]), "nodes_truenodeids": np.where(leaf, 0, first),
        "nodes_falsenodeids": np.where(leaf, 0, second), "nodes_modes": np.where(leaf, "LEAF", below),
        "nodes_missing_value_tracks_true": tables["nan_first"][node], "target_treeids": np.repeat(tree[leaf], targets),
        "target_nodeids": np.repeat(number[node[leaf]], targets), "target_ids": np.tile(np.arange(targets), int(leaf.sum())),
        "target_weights": value[tables["child"][node[leaf], 0]].reshape(-1),
    }  # fmt: skip
    x, y = stage.inputs[0], stage.outputs[0]
    rows = w.shaped(w.real(x), -1, x.width)
    attrs = {name: numbers.tolist() for name, numbers in lists.items()}
    made = w.node("TreeEnsembleRegressor", rows, domain=ML, n_targets=targets, **attrs)
    w.put(y, made if y.steps == 1 else w.shaped(made, -1, y.steps, y.width))


def _trees(feature: np.ndarray, child: np.ndarray, root: np.ndarray) -> np.ndarray:
    """The tree of each node, -1 where none leads to it."""
    tree = np.full(len(feature), -1)
    tree[root] = np.arange(len(root))
    for node in range(len(feature)):  # children lie behind their node
        if feature[node] >= 0 and tree[node] >= 0:
            tree[child[node]] = tree[node]
    return tree
