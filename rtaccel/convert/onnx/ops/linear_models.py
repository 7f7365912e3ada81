"""Linear models and support vector machines of the domain `ai.onnx.ml`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx.ops.scores import both, classified, floats, labelled, of_two, transformed
from rtaccel.convert.onnx.table import op

_ML = "ai.onnx.ml"


def scored(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x.float(), weight, bias)


def _scores(build: Any, x: Any, coefficients: Any, intercepts: Any, rows: int) -> Any:
    floats(build, x)
    weight = np.array(coefficients, "float32").reshape(rows, -1)
    bias = np.array(intercepts if len(intercepts) else [0.0] * rows, "float32")
    return build.call(scored, x, build.constant(weight), build.constant(bias))


@op("LinearRegressor", domain=_ML, builds=True)
def regressor(
    build: Any, x: Any, *, coefficients: Any, intercepts: Any = (), targets: int = 1, post_transform: str = "NONE"
) -> Any:
    return build.call(transformed, _scores(build, x, coefficients, intercepts, targets), how=post_transform)


@op("LinearClassifier", domain=_ML, builds=True)
def classifier(
    build: Any, x: Any, *, coefficients: Any, intercepts: Any = (), classlabels_ints: Any = (), classlabels_strings: Any = (),
    multi_class: int = 0, post_transform: str = "NONE",
) -> Any:  # fmt: skip
    classes = len(classlabels_ints) or len(classlabels_strings)
    rows = len(intercepts) or classes
    if rows == 1 and classes != 2:
        build.refuse("has one score and other than two classes")
    scores = _scores(build, x, coefficients, intercepts, rows)
    if rows == 1:
        return of_two(build, scores, classlabels_ints, classlabels_strings, post_transform, positive=True)
    return classified(build, scores, classlabels_ints, classlabels_strings, post_transform)


def compared(
    x: Tensor, vectors: Tensor, squares: Tensor, *, kind: str, gamma: float, shift: float, degree: float
) -> Tensor:
    """Of each row with each support vector. The distance is that of |x|^2 - 2 x v + |v|^2, and never negative."""
    x = x.float()
    if kind == "LINEAR":
        return F.linear(x, vectors)
    if kind == "RBF":
        distance = (x * x).sum(-1, keepdim=True) + F.linear(x, -2 * vectors, squares)
        return torch.exp(-gamma * distance.clamp(min=0))
    inner = gamma * F.linear(x, vectors) + shift
    return torch.tanh(inner) if kind == "SIGMOID" else inner**degree


def _kernels(build: Any, x: Any, vectors: np.ndarray, kind: str, parameters: Any) -> Any:
    floats(build, x)
    gamma, shift, degree = (*map(float, parameters), 0.0, 0.0, 0.0)[:3]
    squares = (vectors.astype("float64") ** 2).sum(1).astype("float32")
    return build.call(
        compared,
        x,
        build.constant(vectors),
        build.constant(squares),
        kind=kind,
        gamma=gamma,
        shift=shift,
        degree=degree,
    )


def signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0)


@op("SVMRegressor", domain=_ML, builds=True)
def svm_regressor(
    build: Any, x: Any, *, coefficients: Any, rho: Any, n_supports: int = 0, support_vectors: Any = (),
    kernel_type: str = "LINEAR", kernel_params: Any = (), one_class: int = 0, post_transform: str = "NONE",
) -> Any:  # fmt: skip
    if n_supports:
        vectors = np.array(support_vectors, "float32").reshape(n_supports, -1)
        x = _kernels(build, x, vectors, kernel_type, kernel_params)
    y = _scores(build, x, coefficients, rho[:1], 1)
    return build.call(signs, y) if one_class else build.call(transformed, y, how=post_transform)


def most_votes(scores: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Class of each row: each pair of classes has a vote, for the first where its score is positive. Of equal ones the first."""
    won = (scores > 0).float()
    return torch.argmax(F.linear(won, first) + F.linear(1 - won, second), -1)


@op("SVMClassifier", domain=_ML, builds=True)
def svm_classifier(
    build: Any, x: Any, *, coefficients: Any, rho: Any, vectors_per_class: Any = (), support_vectors: Any = (),
    kernel_type: str = "LINEAR", kernel_params: Any = (), prob_a: Any = (), prob_b: Any = (), post_transform: str = "NONE",
    classlabels_ints: Any = (), classlabels_strings: Any = (),
) -> Any:  # fmt: skip
    classes = len(classlabels_ints) or len(classlabels_strings)
    if len(prob_a):
        build.refuse("iterates to probabilities; train it with probability=False, and use its scores")
    if post_transform != "NONE":
        build.refuse(f"transforms its scores by {post_transform}; export it with NONE")
    if not len(vectors_per_class):
        scores = _scores(build, x, coefficients, np.full(classes, rho[0]), classes)
        return classified(build, scores, classlabels_ints, classlabels_strings, post_transform)
    count = sum(vectors_per_class)
    ends = np.cumsum([0, *vectors_per_class])
    own = np.array(coefficients, "float32").reshape(classes - 1, count)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    weight, first, second = np.zeros((len(pairs), count), "float32"), *np.zeros((2, classes, len(pairs)), "float32")
    for p, (i, j) in enumerate(pairs):
        of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        weight[p, of_i], weight[p, of_j] = own[j - 1, of_i], own[i, of_j]
        first[i, p] = second[j, p] = 1.0
    vectors = np.array(support_vectors, "float32").reshape(count, -1)
    x = _kernels(build, x, vectors, kernel_type, kernel_params)
    scores = _scores(build, x, weight, rho, len(pairs))
    index = build.call(most_votes, scores, build.constant(first), build.constant(second))
    if classes == 2:
        scores = build.call(both, scores, positive=False, how="NONE")
    return labelled(build, index, classlabels_ints, classlabels_strings), scores
