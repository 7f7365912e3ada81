"""What a reduction takes inside: squares of its elements, also about a number for each result; and what it joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import ByElements, Joins, Pairs, Square, Squares
from rtaccel.kernels._common.strides import elements


class Rows(ByElements):
    """x may have any rows; numbers that squares are about lie as the results do."""

    def rows_together(self, stage: Stage) -> Sequence[Sequence[Value]]:
        return [stage.inputs[:1], (*stage.inputs[1:], *stage.outputs)]


class Inside(Squares):
    def joined(self, stage: Stage, square: Square) -> Stage | None:
        if stage.attrs["kind"] not in ("sum", "mean") or stage.attrs.get("of") == "squares":
            return None
        dims, kept, place = tuple(stage.attrs["dims"]), stage.attrs["kept"], tuple(stage.attrs["place"])
        x, y = stage.inputs[0], stage.outputs[0]
        if square.x.steps * square.x.width != x.steps * x.width:
            return None
        inputs = (square.x,)
        if square.about is not None:
            if square.about.shape != y.shape:
                return None
            numbers = elements(*square.place)[elements(dims, place)].reshape(prod(dims[:kept]), -1)
            if not np.array_equal(numbers[:, 0], np.arange(len(numbers))) or not (numbers == numbers[:, :1]).all():
                return None
            inputs = (square.x, square.about)
        return replace(stage, inputs=inputs, attrs={**stage.attrs, "of": "squares"})


class Alone(Pairs):
    def joins(self, stage: Stage) -> Joins | None:
        if stage.attrs.get("of", "elements") != "elements":
            return None
        return Joins(stage.attrs["kind"], tuple(stage.attrs["dims"]), stage.attrs["kept"], tuple(stage.attrs["place"]))
