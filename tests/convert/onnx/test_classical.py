"""Models of the domain `ai.onnx.ml` against ONNX Runtime: nodes with random numbers, and what scikit-learn exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt

onnx = pytest.importorskip("onnx", reason="needs the package onnx")
ort = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime, whose results these are")
helper, TensorProto = onnx.helper, onnx.TensorProto

FEATURES = 6
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]


def file(node: str, outputs: list[tuple[str, int]], whole: bool = False, rank: int = 2, **attrs: Any) -> Any:
    value = helper.make_tensor_value_info
    made = helper.make_node(node, ["x"], [name for name, _ in outputs], domain="ai.onnx.ml", **attrs)
    x = value("x", TensorProto.INT64 if whole else TensorProto.FLOAT, [None, FEATURES])
    graph = helper.make_graph(
        [made], "g", [x], [value(n, kind, [None] if n == "label" else [None] * rank) for n, kind in outputs]
    )
    version = 5 if node == "TreeEnsemble" else 3
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


SCORES = [("label", TensorProto.INT64), ("scores", TensorProto.FLOAT)]
FLOAT = [("y", TensorProto.FLOAT)]


def check(model: Any, *batches: np.ndarray, near: float = 2e-5) -> None:
    """Ours and ONNX Runtime's results are the same for each batch, and all of it is native."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fast = rt.compile(rt.from_onnx(model), torch.from_numpy(batches[0]))
    assert fast.native[0] == fast.native[1], fast.explain(measure=False)
    for x in batches:
        got = fast(torch.from_numpy(x))
        for have, want in zip(got if isinstance(got, (tuple, list)) else [got], session.run(None, {"x": x})):
            np.testing.assert_allclose(have.numpy().reshape(-1), want.reshape(-1), near, near)


def rows(rng: np.random.Generator, values: Any = ()) -> list[np.ndarray]:
    """Batches of one and of more: random numbers, thresholds among them, and NaN."""
    made = []
    for n in (1, 37):
        x = rng.normal(size=(n, FEATURES)).astype("float32")
        if len(values):
            x = np.where(rng.random(x.shape) < 0.3, rng.choice(np.asarray(values, "float32"), x.shape), x)
            x[rng.random(x.shape) < 0.1] = np.nan
        made.append(x.astype("float32"))
    return made


def forest(
    rng: np.random.Generator, trees: int, modes: list[str], missing: bool
) -> tuple[dict[str, list[Any]], list[tuple[int, int]]]:
    """Nodes of random trees, their names in no order, and (tree, node) of the leaves."""
    names = (
        "treeids",
        "nodeids",
        "featureids",
        "modes",
        "values",
        "truenodeids",
        "falsenodeids",
        "missing_value_tracks_true",
    )
    made: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    leaves = []
    for tree in range(trees):
        count = 1 if tree % 5 == 4 else 2 * int(rng.integers(1, 16)) + 1
        nodes: list[list[Any]] = [[0, "LEAF", 0.0, 0, 0] for _ in range(count)]
        open_leaves, free = [0], 1
        while free < count:
            node = open_leaves.pop(int(rng.integers(len(open_leaves))))
            nodes[node] = [int(rng.integers(FEATURES)), str(rng.choice(modes)), float(rng.normal()), free, free + 1]
            open_leaves += [free, free + 1]
            free += 2
        for node, (feature, mode, value, true, false) in enumerate(nodes):
            row = (tree, node, feature, mode, value, true, false, int(missing and rng.random() < 0.5))
            for name, v in zip(names, row):
                made[f"nodes_{name}"].append(v)
        leaves += [(tree, node) for node in open_leaves]
    return made, leaves


MODES = [
    ["BRANCH_LEQ"],
    ["BRANCH_LT"],
    ["BRANCH_GT"],
    ["BRANCH_GTE"],
    ["BRANCH_LEQ", "BRANCH_GT"],
    ["BRANCH_LT", "BRANCH_GTE"],
]


@pytest.mark.parametrize("seed", range(12))
def test_trees_that_regress(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, leaves = forest(rng, int(rng.integers(1, 30)), MODES[seed % 6], seed % 2 == 0)
    targets = 1 + seed % 3
    named = [(t, n, k) for t, n in leaves for k in range(targets) if targets == 1 or rng.random() < 0.7]
    base = {"base_values": rng.normal(size=targets).tolist()} if seed % 4 == 1 else {}
    model = file(
        "TreeEnsembleRegressor", FLOAT, **nodes, n_targets=targets, **base,
        aggregate_function="AVERAGE" if seed % 5 == 2 else "SUM", target_treeids=[t for t, _, _ in named],
        target_nodeids=[n for _, n, _ in named], target_ids=[k for _, _, k in named],
        target_weights=rng.normal(size=len(named)).tolist(),
    )  # fmt: skip
    check(model, *rows(rng, nodes["nodes_values"]))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("seed", range(8))
def test_trees_that_classify(seed: int, transform: str) -> None:
    """Two classes with a score for one of them, positive or of both signs, and more classes with one each; any order."""
    rng = np.random.default_rng(seed)
    nodes, leaves = forest(rng, int(rng.integers(2, 20)), MODES[seed % 6], seed % 2 == 0)
    kind = seed % 4
    classes, positive = (2, kind == 0) if kind < 2 else (kind + 1, False)
    named = [(t, n, k) for t, n in leaves for k in ([seed % 3 % 2] if classes == 2 else range(classes))]
    weights = rng.normal(size=len(named))
    if positive:
        weights = np.abs(weights) / len(set(nodes["nodes_treeids"])) / 2
    model = file(
        "TreeEnsembleClassifier", SCORES, **nodes, class_treeids=[t for t, _, _ in named],
        class_nodeids=[n for _, n, _ in named], class_ids=[k for _, _, k in named], class_weights=weights.tolist(),
        classlabels_int64s=rng.permutation(classes).tolist() if seed >= 4 else list(range(classes)), post_transform=transform,
    )  # fmt: skip
    check(model, *rows(rng, nodes["nodes_values"]))


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_trees_of_the_newer_operator(mode: int) -> None:
    rng = np.random.default_rng(mode)
    features, splits, ends, children = [], [], [], []
    roots, leaf_targets, leaf_weights = [], [], []
    for _ in range(9):  # each a node with two leaves, or one above two of them

        def leaf() -> int:
            leaf_targets.append(int(rng.integers(2)))
            leaf_weights.append(float(rng.normal()))
            return len(leaf_weights) - 1

        roots.append(len(features))
        deep = rng.random() < 0.5
        for level in range(1 + deep):
            features.append(int(rng.integers(FEATURES)))
            splits.append(float(rng.normal()))
            on = deep and level == 0
            ends.append((0 if on else 1, 1))
            children.append((len(features) if on else leaf(), leaf()))
    tensor = helper.make_tensor
    model = file(
        "TreeEnsemble", FLOAT, n_targets=2, aggregate_function=1, post_transform=0, tree_roots=roots, nodes_featureids=features,
        nodes_splits=tensor("s", TensorProto.FLOAT, [len(splits)], splits),
        nodes_modes=tensor("m", TensorProto.UINT8, [len(splits)], [mode] * len(splits)),
        nodes_truenodeids=[a for a, _ in children], nodes_falsenodeids=[b for _, b in children],
        nodes_trueleafs=[a for a, _ in ends], nodes_falseleafs=[b for _, b in ends], leaf_targetids=leaf_targets,
        leaf_weights=tensor("w", TensorProto.FLOAT, [len(leaf_weights)], leaf_weights),
    )  # fmt: skip
    check(model, *rows(rng, splits))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers(classes: int, transform: str) -> None:
    rng = np.random.default_rng(classes)
    for rows_ in {1 if classes == 2 else classes, classes}:
        weight, bias = rng.normal(size=(rows_, FEATURES)), rng.normal(size=rows_)
        model = file("LinearClassifier", SCORES, coefficients=weight.reshape(-1).tolist(), intercepts=bias.tolist(),
                     classlabels_ints=rng.permutation(classes).tolist(), post_transform=transform)  # fmt: skip
        check(model, *rows(rng))


@pytest.mark.parametrize("targets", [1, 3])
def test_linear_regressors(targets: int) -> None:
    rng = np.random.default_rng(targets)
    weight, bias = rng.normal(size=targets * FEATURES).tolist(), rng.normal(size=targets).tolist()
    check(file("LinearRegressor", FLOAT, coefficients=weight, intercepts=bias, targets=targets), *rows(rng))


KERNELS = {"LINEAR": [0.0, 0.0, 0.0], "RBF": [0.3, 0.0, 0.0], "POLY": [0.5, 0.2, 3.0], "SIGMOID": [0.2, 0.1, 0.0]}


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vectors_that_regress(kind: str, one_class: int) -> None:
    rng = np.random.default_rng(len(kind))
    count = 11
    model = file("SVMRegressor", FLOAT, kernel_type=kind, kernel_params=KERNELS[kind], n_supports=count, rho=[0.3],
                 support_vectors=rng.normal(size=count * FEATURES).tolist(), coefficients=rng.normal(size=count).tolist(),
                 one_class=one_class)  # fmt: skip
    check(model, *rows(rng))


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_support_vectors_that_classify(kind: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    each = [int(n) for n in rng.integers(1, 6, classes)]
    count = sum(each)
    model = file("SVMClassifier", SCORES, kernel_type=kind, kernel_params=KERNELS[kind], vectors_per_class=each,
                 support_vectors=rng.normal(size=count * FEATURES).tolist(), classlabels_ints=list(range(classes)),
                 coefficients=rng.normal(size=count * (classes - 1)).tolist(),
                 rho=rng.normal(size=classes * (classes - 1) // 2).tolist())  # fmt: skip
    check(model, *rows(rng))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizers(norm: str) -> None:
    rng = np.random.default_rng(0)
    x = rows(rng)[1]
    x[3] = 0
    check(file("Normalizer", FLOAT, norm=norm), x[:1], x)


def test_features() -> None:
    rng = np.random.default_rng(1)
    x = rows(rng, [0.5])[1]
    check(
        file(
            "Imputer", FLOAT, imputed_value_floats=rng.normal(size=FEATURES).tolist(), replaced_value_float=float("nan")
        ),
        x[:1],
        x,
    )
    check(file("Imputer", FLOAT, imputed_value_floats=[7.0], replaced_value_float=0.5), np.nan_to_num(x))
    check(file("Binarizer", FLOAT, threshold=0.25), np.nan_to_num(x))
    check(file("Scaler", FLOAT, offset=rng.normal(size=FEATURES).tolist(), scale=[2.0] * FEATURES), np.nan_to_num(x))
    whole = rng.integers(-2, 6, (9, FEATURES))
    check(file("LabelEncoder", [("y", TensorProto.INT64)], whole=True, keys_int64s=[5, 0, 3], values_int64s=[9, 8, 7],
               default_int64=-4), whole)  # fmt: skip
    check(
        file("LabelEncoder", FLOAT, whole=True, keys_int64s=[5, 0, 3], values_floats=[0.5, 8, 7.0], default_float=2.5),
        whole,
    )
    check(file("OneHotEncoder", FLOAT, whole=True, rank=3, cats_int64s=[3, 0, 1]), whole)


REFUSED = {
    "text as labels": ("LinearClassifier", SCORES, {
        "coefficients": [1.0] * 12, "intercepts": [0.0, 0.0], "classlabels_strings": ["a", "b"]}, "text"),
    "a dict": ("ZipMap", FLOAT, {"classlabels_int64s": [0, 1]}, "zipmap"),
    "probabilities of pairs": ("SVMClassifier", SCORES, {
        "coefficients": [1.0, 2.0], "rho": [0.0], "vectors_per_class": [1, 1], "support_vectors": [1.0] * 12, "prob_a": [1.0],
        "prob_b": [1.0], "kernel_type": "LINEAR", "classlabels_ints": [0, 1]}, "probability=False"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form(name: str) -> None:
    node, outputs, attrs, said = REFUSED[name]
    with pytest.raises(rt.UnsupportedProblem, match=said):
        rt.from_onnx(file(node, outputs, **attrs))


def one_tree(**change: list[Any]) -> Any:
    nodes: dict[str, list[Any]] = {
        "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0, 1, 0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"], "nodes_values": [0.0] * 5,
        "nodes_truenodeids": [1, 3, 0, 0, 0], "nodes_falsenodeids": [2, 4, 0, 0, 0],
    }  # fmt: skip
    leaves = {
        "target_treeids": [0] * 3,
        "target_nodeids": [2, 3, 4],
        "target_ids": [0] * 3,
        "target_weights": [1.0, 2.0, 3.0],
    }
    return file("TreeEnsembleRegressor", FLOAT, n_targets=1, **{**nodes, **change}, **leaves)


@pytest.mark.parametrize(("change", "said"), [
    ({"nodes_modes": ["BRANCH_LEQ", "BRANCH_EQ", "LEAF", "LEAF", "LEAF"]}, "BRANCH_EQ"),
    ({"nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF"]}, "mixes"),
    ({"nodes_falsenodeids": [2, 9, 0, 0, 0]}, "not there"),
    ({"nodes_falsenodeids": [2, 3, 0, 0, 0]}, "two roots"),
    ({"nodes_falsenodeids": [2, 1, 0, 0, 0]}, "two roots"),
    ({"nodes_nodeids": [0, 1, 2, 3, 3]}, "one name"),
    ({"nodes_modes": ["BRANCH_LEQ"] * 3 + ["LEAF"] * 2, "nodes_truenodeids": [1, 3, 3, 0, 0],
      "nodes_falsenodeids": [2, 4, 4, 0, 0]}, "twice"),
])  # fmt: skip
def test_trees_that_are_none(change: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(rt.UnsupportedProblem, match=said):
        rt.from_onnx(one_tree(**change))
    assert rt.from_onnx(one_tree())(torch.zeros(1, FEATURES)).item() == 2.0


def test_thresholds_in_float64() -> None:
    """Compared as float64 compares them: the tensor form holds numbers between two of float32."""
    near = np.float32(0.1)
    between = float(near) + 1e-10
    for mode in ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"):
        for t in (between, float(near) - 1e-10, float(near)):
            model = one_tree(nodes_modes=[mode, mode, "LEAF", "LEAF", "LEAF"])
            attrs = model.graph.node[0].attribute
            kept = [a for a in attrs if a.name not in ("nodes_values", "target_weights")]
            del attrs[:]
            attrs.extend(kept)
            for name, values in (("nodes_values_as_tensor", [t] * 5), ("target_weights_as_tensor", [1.0, 2.0, 3.0])):
                attrs.append(
                    helper.make_attribute(name, helper.make_tensor("t", TensorProto.DOUBLE, [len(values)], values))
                )
            x = np.full((3, FEATURES), near)
            x[0], x[2] = np.nextafter(near, np.float32(-1)), np.nextafter(near, np.float32(1))
            hold = {
                "BRANCH_LEQ": np.less_equal,
                "BRANCH_LT": np.less,
                "BRANCH_GTE": np.greater_equal,
                "BRANCH_GT": np.greater,
            }[mode]
            want = [2.0 if hold(np.float64(v), t) else 1.0 for v in x[:, 0]]
            assert rt.from_onnx(model)(torch.from_numpy(x)).reshape(-1).tolist() == want, (mode, t)
