"""What an answer is worth: an accuracy by labels, or the user's metric; and what each stage answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.search.cascade.stages import Stages

CHUNK = 1024
"""Rows of a call that goes over data."""


class Judge:
    """Values answers float32 [rows, ...]; larger is better. With labels it also knows by which rows two answers differ.

    Raises FormatError for both or neither of labels and metric, and for labels that do not fit.
    """

    def __init__(self, op: str, rows: int, labels: Any, metric: Any) -> None:
        self._op = op
        if (labels is None) == (metric is None):
            raise FormatError(
                op, "labels and metric" if metric else "no labels and no metric", "one of them", "Pass it."
            )
        if labels is not None:
            labels = torch.as_tensor(labels)
            if labels.dtype not in (torch.int64, torch.int32) or tuple(labels.shape) != (rows,):
                got = f"labels {labels.dtype}{list(labels.shape)}"
                raise FormatError(op, got, f"int64[{rows}], a class for each row", "Pass them.")
        elif not callable(metric):
            raise FormatError(op, f"metric of type {type(metric).__name__}", "a function of answers", "Pass one.")
        self.labels: Tensor | None = labels
        self._metric: Callable[[Tensor], float] | None = metric

    def right(self, y: Tensor) -> Tensor:
        """With labels: bool [rows]. An answer with a NaN is wrong."""
        flat = y.reshape(len(y), -1)
        if (
            self.labels is not None
            and len(y)
            and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < flat.shape[1]
        ):
            got = f"labels {int(self.labels.min())} to {int(self.labels.max())}"
            raise FormatError(self._op, got, f"classes 0 to {flat.shape[1] - 1}", "Pass indices of the answers.")
        return (flat.argmax(1) == self.labels) & ~flat.isnan().any(1)

    def value(self, y: Tensor) -> float:
        """The metric. Raises FormatError where it is not a finite number."""
        if self._metric is None:
            return float(self.right(y).double().mean()) if len(y) else 0.0
        try:
            value = float(self._metric(y))
        except (TypeError, ValueError) as error:
            raise FormatError(self._op, f"a metric that gives no number ({error})", "a float", "Return one.") from error
        if not math.isfinite(value):
            raise FormatError(self._op, f"a metric that gives {value}", "a finite number", "Mend it or its data.")
        return value

    def drop(self, full: Tensor, y: Tensor, standard_errors: float) -> float:
        """How far y is below the full answers, with so many standard errors where there are labels."""
        if self.labels is None:
            return self.value(full) - self.value(y)
        lost = self.right(full).double() - self.right(y).double()
        spread = float(lost.std()) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        return float(lost.mean()) + standard_errors * spread


def stage_answers(stages: Stages, data: Tensor) -> list[Tensor]:
    """What each stage says of all rows, float32 [rows, ...]; not for streams."""
    batches: list[list[Tensor]] = [[] for _ in stages.models]
    size = CHUNK if all(CHUNK in model._options.batch for model in stages.all) else 1
    size = min([size, *(m._options.max_batch for m in stages.all if m._options.max_batch)])
    for x in data.split(size):
        for index, model in enumerate(stages.models):
            y = model(x)
            if stages.heads:
                x, y = y, stages.heads[index](y)
            batches[index].append(y)
    return [torch.cat(parts) for parts in batches]
