"""A lowered model without its numbers, to lower it once more as a saved state was: other schemes, other int8 edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.quantization.scheme_rules import LayerPlan
from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.core.scheme import scheme_names
from rtaccel.core.stage import QParams

if TYPE_CHECKING:
    from rtaccel.convert.passes.program import Program


@dataclass(frozen=True)
class Skeleton:
    """graph: its tensors are ones that take no memory. layers: how each layer is computed, by the name of its value."""

    exported: ExportedGraph
    graph: OpGraph
    layers: Mapping[str, LayerPlan]
    states: frozenset[str] | None

    @classmethod
    def of(
        cls, exported: ExportedGraph, graph: OpGraph, layers: Mapping[str, LayerPlan], states: frozenset[str] | None
    ) -> Skeleton:
        op_nodes = tuple(replace(d, tensors={k: _empty(t) for k, t in d.tensors.items()}) for d in graph.op_nodes)
        kept = {
            name: replace(layer, factor=None if layer.factor is None else _empty(layer.factor), stored={})
            for name, layer in layers.items()
        }
        constants = dict.fromkeys(exported.constants, _empty(torch.ones(1)))
        return cls(
            replace(exported, constants=constants),
            replace(graph, op_nodes=op_nodes, constants={name: _empty(t) for name, t in graph.constants.items()}),
            kept,
            states,
        )

    def decisions(self) -> dict[str, Any]:
        """Of every layer, as JSON holds it."""
        return {
            name: {
                "scheme": {"name": layer.scheme.name, **asdict(layer.scheme)},
                "int8": layer.int8,
                "dynamic": layer.dynamic,
                "quant": None if layer.quant is None else [layer.quant.scale, layer.quant.zero_point],
                "h_scale": layer.h_scale,
                "columns": layer.factor is not None,
            }
            for name, layer in self.layers.items()
        }

    def relowered(self, decisions: Any) -> Program | None:
        """The program with these decisions; None where they are not those of this model's layers."""
        from rtaccel.convert.passes.emit import Emitter

        if not isinstance(decisions, dict) or decisions.keys() != self.layers.keys():
            return None
        try:
            layers = {name: _layer(value, self.graph, name) for name, value in decisions.items()}
            made = Emitter(self.exported, self.graph, layers, self.states).program(())
            source = replace(self, layers=layers)
        except (RtaccelError, KeyError, TypeError, ValueError, AttributeError):  # bytes of any origin
            return None
        return replace(made, source=source)


def _empty(tensor: Tensor) -> Tensor:
    """Ones of the same shape and dtype, all of them the same memory."""
    if tensor.dtype.is_floating_point and tensor.element_size() == 1:  # float8: no fill for it
        return torch.zeros((), dtype=torch.uint8, device="cpu").view(tensor.dtype).expand(tensor.shape)
    return torch.ones((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)


def _layer(value: Mapping[str, Any], graph: OpGraph, name: str) -> LayerPlan:
    given = dict(value["scheme"])
    known = scheme_names().get(given.pop("name"))
    if known is None:
        raise FormatError("load_state_dict", f"scheme {value['scheme']}", "a known scheme", "Save it again.")
    quant = None if value["quant"] is None else QParams(float(value["quant"][0]), int(value["quant"][1]))
    factor = None
    if value["columns"]:
        op_node = next(d for d in graph.op_nodes if d.writes[0] == name)
        weights = op_node.operator.weights
        assert weights is not None
        columns = op_node.tensors[weights.of_input(op_node.tensors)[0]].shape[1]
        factor = torch.ones(columns, dtype=torch.float32, device="cpu")
    h_scale = None if value["h_scale"] is None else float(value["h_scale"])
    return LayerPlan(known(**given), bool(value["int8"]), bool(value["dynamic"]), quant, h_scale, factor)
