"""The tensors that a scheme makes of a float32 weight, by the format that it names.

A module of this folder that a scheme names as its `weight_format` has

    stage_weights(weight [N, K], scheme) -> (tensors, attrs)

tensors take the place of the float32 weight in a stage: "weight", and what belongs to it ("weight_scale", "group_scale"). attrs
are further attributes of that stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from rtaccel.core.scheme import Scheme


def stage_weights(weight: Tensor, scheme: Scheme) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Of a float32 weight [N, K]. Raises FormatError for one that is not finite, UnsupportedProblem for one that does not fit."""
    return import_module(f"rtaccel.formats.{scheme.weight_format}").stage_weights(weight, scheme)
