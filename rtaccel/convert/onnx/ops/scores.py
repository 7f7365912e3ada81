"""What classifiers of the domain `ai.onnx.ml` make of their scores: probabilities, and the label of the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def floats(build: Any, x: Any) -> None:
    """Refuses an x that kernels would round."""
    if build.dtype_of(x) == torch.float64:
        build.refuse("reads float64; export the model for inputs of float32")


def transformed(x: Tensor, *, how: str) -> Tensor:
    if how == "LOGISTIC":
        return torch.sigmoid(x)
    if how == "SOFTMAX":
        return torch.softmax(x, -1)
    if how == "SOFTMAX_ZERO":  # numbers about zero weigh exp(-largest) of themselves, instead of exp of the difference
        most = x.amax(-1, keepdim=True)
        weights = torch.where(x.abs() > 1e-7, torch.exp(x - most), x * torch.exp(-most))
        return weights / weights.sum(-1, keepdim=True)
    if how == "PROBIT":
        return _probit(x)
    return x


def _probit(p: Tensor) -> Tensor:
    """The inverse of the normal distribution as ONNX Runtime has it: by Winitzki's approximation of the inverse of erf."""
    x = 2 * p - 1
    log = torch.log((1 - x) * (1 + x))
    v = 2 / (torch.pi * 0.147) + 0.5 * log
    return 1.41421356 * torch.sign(x) * torch.sqrt(torch.sqrt(v * v - log / 0.147) - v)


def both(score: Tensor, *, positive: bool, how: str) -> Tensor:
    """Scores of two classes of that of one, as ONNX Runtime has them. positive: it is a probability, else a distance from the
    border."""
    if how == "LOGISTIC":
        return torch.sigmoid(torch.cat([-score, score], -1))
    return torch.cat([1 - score if positive else -score, score], -1)


def above(score: Tensor, *, limit: float) -> Tensor:
    return (score > limit).long().reshape(score.shape[:-1])


def second_above(scores: Tensor, *, limit: float) -> Tensor:
    return (scores[..., 1] > limit).long()


def largest(scores: Tensor) -> Tensor:
    return torch.argmax(scores, -1)


def named(index: Tensor, labels: Tensor) -> Tensor:
    return labels.index_select(0, index.reshape(-1)).reshape(index.shape)


def labelled(build: Any, index: Any, ints: Any, strings: Any) -> Any:
    if len(strings):
        build.refuse("gives labels that are text; train or export it with whole numbers as classes")
    if list(ints) == list(range(len(ints))):
        return index
    return build.call(named, index, build.constant(np.array(ints, "int64")))


def classified(build: Any, scores: Any, ints: Any, strings: Any, how: str) -> tuple[Any, Any]:
    """(label, scores) of a score for each class."""
    return labelled(build, build.call(largest, scores), ints, strings), build.call(transformed, scores, how=how)


def of_two(
    build: Any, score: Any, ints: Any, strings: Any, how: str, positive: bool = False, limit: float = 0.0
) -> tuple[Any, Any]:
    """The same of one score for two classes: the second above the limit."""
    if how == "PROBIT":
        build.refuse("makes PROBIT of one score for two classes, of which the second has none")
    label = build.call(above, score, limit=limit)
    return labelled(build, label, ints, strings), build.call(both, score, positive=positive, how=how)
