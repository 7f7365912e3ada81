"""What lowering one graph with one set of calibration data finds out, for those who lower it again with other schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.quantization.call_statistics import CallStatistics
from rtaccel.convert.quantization.equalization import ColumnObserver
from rtaccel.convert.quantization.rounding import Rounded
from rtaccel.convert.quantization.value_statistics import ValueStatistics
from rtaccel.core.scheme import Scheme
from rtaccel.core.stage import QParams
from rtaccel.core.traits import StateObserver
from rtaccel.formats.weights import stage_weights
from rtaccel.plan.sparse import SparseChoice


class LowerMemo:
    """Of one graph and its calibration data. A program is the same with it and without; it is only made sooner.

    statistics: of the inputs of layers, by value. forms: layers in another form, by value and form. ranges: static scales, by
    value, observer and what else they depend on. columns: observers of inputs whose columns were tried; equalized: layers after
    that. hidden: ranges of recurrent states, by node. rounded: weights rounded for their inputs. calls: what convolutions
    and recurrent layers multiply, by node. balanced: weights and factors of pairs of layers. sparse: the fastest form of a
    stage with zeros.
    """

    def __init__(self) -> None:
        self.statistics: dict[str, ValueStatistics] = {}
        self.forms: dict[tuple[str, str], tuple[tuple[OpNode, ...], Tensor | None, str]] = {}
        self.ranges: dict[tuple[str, str, str], QParams] = {}
        self.columns: dict[tuple[str, str, str], ColumnObserver] = {}
        self.hidden: dict[str, StateObserver] = {}
        self.sparse: dict[Any, SparseChoice] = {}
        self.rounded: dict[tuple[str, str], Rounded] = {}
        self.calls: dict[str, CallStatistics] = {}
        self.balanced: dict[Any, Any] = {}
        self.equalized: dict[tuple[str, int], OpNode] = {}
        self._stored: dict[tuple[int, str], tuple[Tensor, Mapping[str, Tensor], Mapping[str, Any]]] = {}

    def for_other_sizes(self) -> LowerMemo:
        """For the same model with inputs of other sizes: what does not depend on them is shared, in both directions."""
        other = LowerMemo()
        other.statistics, other.ranges, other.columns = self.statistics, self.ranges, self.columns
        other.hidden, other.rounded, other._stored = self.hidden, self.rounded, self._stored
        return other

    def stage_weights(self, weight: Tensor, scheme: Scheme) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """rtaccel.formats.weights.stage_weights of a matrix [N, K] or more dimensions, once for each tensor and scheme."""
        key = id(weight), repr(scheme)
        if key not in self._stored:  # the tensor is kept, so that no other gets its id
            self._stored[key] = (weight, *stage_weights(weight.reshape(weight.shape[0], -1), scheme))
        return self._stored[key][1:]
