"""What passes ask of `pointwise`: what it is made of, so that it can go into a neighbor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rtaccel.core.stage import Stage
from rtaccel.core.stage_traits import Formula, Square, Squares
from rtaccel.core.traits import Folding, Node


class Pointwise:
    """An rtaccel.core.traits.Elementwise."""

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        return (tensors["scale"], tensors["shift"]) if "scale" in tensors else None

    def adds(self, inputs: int, tensors: Mapping[str, Tensor], attrs: Mapping[str, Any]) -> bool:
        return inputs == 2 and attrs.get("join", "add") == "add" and "scale" not in tensors


FOLDING = Folding()
"""An activation that follows. A scale and shift after it are rounded apart, so they stay a pass of their own."""


class Gate(Squares):
    """A value that is its own gate is squared."""

    def made(self, stage: Stage) -> Square | None:
        names = {v.name for v in stage.inputs}
        plain = (
            not stage.tensors and stage.attrs.get("activation", "none") == "none" and stage.attrs.get("join") == "mul"
        )
        floats = all(v.dtype == "float32" for v in (*stage.inputs, *stage.outputs))
        return Square(stage.inputs[0]) if plain and floats and len(stage.inputs) == 2 and len(names) == 1 else None


class Function(Formula):
    """An activation alone."""

    def activation(self, stage: Stage) -> tuple[str, float] | None:
        name = str(stage.attrs.get("activation", "none"))
        values = (*stage.inputs, *stage.outputs)
        alone = len(stage.inputs) == 1 and not stage.tensors and name != "none"
        if not alone or any(v.dtype != "float32" or v.shape != values[0].shape for v in values):
            return None
        return name, float(stage.attrs.get("activation_parameter", 0.0))


def adds_nothing(shift: Tensor) -> bool:
    """Whether it leaves every number as it is. 0 does not: -0 + 0 is 0."""
    return bool(((shift == 0) & shift.signbit()).all())


class Joining:
    """An rtaccel.core.traits.Merging: the same as an expression, which then is joined with others."""

    def in_form(self, node: Node, buffers: Mapping[str, Any]) -> Node | None:
        total = buffers[node.writes[0]].elements
        width = buffers[node.writes[0]].width or total
        if any(buffers[name].elements != total or buffers[name].width not in (0, width) for name in node.reads):
            return None
        dims, dense, by_column = (total // width, width), (0, width, 1), (0, 0, 1)
        program, places, result = [], [dense] * len(node.reads), "x0"
        tensors = {}
        if "scale" in node.tensors:
            neutral = {"scale": (node.tensors["scale"] == 1.0).all(), "shift": adds_nothing(node.tensors["shift"])}
            for name, factor in (("mul", "scale"), ("add", "shift")):
                if neutral[factor]:
                    continue
                tensors[f"c{len(tensors)}"] = node.tensors[factor]
                program.append(f"{name} {result} c{len(tensors) - 1}")
                result = f"t{len(program) - 1}"
        if len(node.reads) == 2:
            program.append(f"{node.attrs.get('join', 'add')} {result} x1")
            result = f"t{len(program) - 1}"
        activation = node.attrs.get("activation", "none")
        if activation != "none" or not program:
            program.append(f"{activation} {result} {float(node.attrs.get('activation_parameter', 0.0))!r}")
        attrs = {"program": tuple(program), "dims": dims, "places": (*places, *[by_column] * len(tensors))}
        return replace(node, op="strided_expression", tensors=tensors, attrs=attrs)  # type: ignore[type-var]

    def takes_in(self, node: Node, source: Node, elements: int) -> bool:
        return False

    def settle(self, node: Node, buffers: Mapping[str, Any]) -> None:
        return
