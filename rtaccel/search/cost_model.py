"""What plans take, from the stages that they are lowered to: each option beside the first, and neighbors together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rtaccel.core.layer_forms import LayerForm
from rtaccel.core.scheme import Int8Activation, Scheme
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.clock import Clock
from rtaccel.search.cost_table import CostTable, Key
from rtaccel.search.knapsack import Plan
from rtaccel.search.options import LayerOptions
from rtaccel.search.workbench import Workbench

KEPT = 12
"""Models of plans that are at hand, as many as are timed in turn at the end."""


class CostModel:
    """times: of each option of each layer beside its first option, others as they are at first. pairs: (layer, layer) -> what
    two neighbors take beyond the sum, since a value passes between them as int8, or has to be converted."""

    def __init__(self, bench: Workbench, layers: Sequence[LayerOptions], table: CostTable) -> None:
        self.bench, self.layers, self.table = bench, layers, table
        self._keys: dict[Plan, tuple[Key, ...]] = {}
        self._built: dict[Plan, CompiledModel] = {}
        self.times: list[np.ndarray] = []
        self.pairs: dict[tuple[int, int], np.ndarray] = {}

    @property
    def reference(self) -> Plan:
        """The first option of every layer."""
        return (0,) * len(self.layers)

    def scheme(self, plan: Plan) -> dict[str, Scheme]:
        """What `rt.compile` takes for a plan."""
        return {layer.name: layer.options[o] for layer, o in zip(self.layers, plan)}

    def uniform(self, option: Scheme) -> Plan:
        """The plan with an option wherever a layer has it."""
        return tuple(x.options.index(option) if option in x.options else 0 for x in self.layers)

    def single(self, layer: int, option: int) -> Plan:
        return tuple(option if i == layer else 0 for i in range(len(self.layers)))

    def keys(self, plan: Plan) -> tuple[Key, ...]:
        if plan not in self._keys:
            self._keys[plan] = self.table.add(self.bench.program(self.scheme(plan)))
        return self._keys[plan]

    def build(self, plan: Plan) -> CompiledModel:
        """The compiled model of a plan; its stages become known to the table on the way."""
        program = self.bench.program(self.scheme(plan))
        if plan not in self._keys:
            self._keys[plan] = self.table.add(program)
        return self.bench.compiled(program)

    def kept(self, plan: Plan) -> CompiledModel:
        """As `build`, of a plan that is asked for more than once: judged, timed and measured. The last KEPT are at hand."""
        model = self._built.pop(plan, None)
        self._built[plan] = model = self.build(plan) if model is None else model
        while len(self._built) > KEPT:
            self._built.pop(next(iter(self._built)))
        return model

    def stages_us(self, plan: Plan) -> float:
        """The sum over the stages of a plan."""
        keys = self.keys(plan)
        self.table.measure()
        return self.table.us(keys)

    def measure(self, clock: Clock) -> None:
        """Lowers every option of each layer alone, everywhere, and beside one of its neighbors; then times what that needs."""
        self.keys(self.reference)
        for option in dict.fromkeys(o for layer in self.layers for o in layer.options):
            self.keys(self.uniform(option))
        for i, layer in enumerate(self.layers):
            for o in range(1, len(layer.options)):
                clock.check()
                self.keys(self.single(i, o))
        shared: dict[tuple[int, int], list[tuple[int, int, Plan]]] = {}
        for a, b in neighbors(self.bench, self.layers):
            for o, p in _representatives(self.layers[a], self.layers[b]):
                clock.check()
                plan = tuple(o if i == a else p if i == b else 0 for i in range(len(self.layers)))
                self.keys(plan)
                shared.setdefault((a, b), []).append((o, p, plan))
        self.table.measure(clock.until())
        us = {plan: self.table.us(keys) for plan, keys in self._keys.items()}
        base = us[self.reference]
        self.times = [
            np.array([us[self.single(i, o)] - base if o else 0.0 for o in range(len(layer.options))])
            for i, layer in enumerate(self.layers)
        ]  # fmt: skip
        for (a, b), found in shared.items():
            matrix = np.zeros((len(self.layers[a].options), len(self.layers[b].options)))
            for o, p, plan in found:
                beyond = us[plan] - base - self.times[a][o] - self.times[b][p]
                for i, j in np.ndindex(*matrix.shape):
                    alike = _kind(self.layers[a], i) == _kind(self.layers[a], o)
                    if i and j and alike and _kind(self.layers[b], j) == _kind(self.layers[b], p):
                        matrix[i, j] = beyond
            if np.abs(matrix).max() > 0:
                self.pairs[a, b] = matrix


def _kind(layer: LayerOptions, option: int) -> tuple[bool, bool]:
    """What a neighbor notices of an option: whether it reads int8, and whether it has another form."""
    scheme = layer.options[option]
    inner = scheme.inner if isinstance(scheme, LayerForm) else scheme
    return isinstance(inner, Int8Activation), isinstance(scheme, LayerForm)


def _representatives(a: LayerOptions, b: LayerOptions) -> list[tuple[int, int]]:
    """One pair of options for each pair of kinds, where something passes between the two in another way."""
    first: list[Mapping[tuple[bool, bool], int]] = []
    for layer in (a, b):
        found: dict[tuple[bool, bool], int] = {}
        for option in range(1, len(layer.options)):
            found.setdefault(_kind(layer, option), option)
        first.append(found)
    int8_first = any(_kind(layer, 0)[0] for layer in (a, b))
    return [
        (o, p) for x, o in first[0].items() for y, p in first[1].items() if int8_first or (x[0] and y[0])
    ]  # fmt: skip


def neighbors(bench: Workbench, layers: Sequence[LayerOptions]) -> list[tuple[int, int]]:
    """Layers between which a value passes with nothing but elementwise or similar nodes of one input, and those that read the
    same value."""
    index = {layer.name: i for i, layer in enumerate(layers)}
    origin: dict[str, int] = {}
    readers: dict[str, list[int]] = {}
    found: dict[tuple[int, int], None] = {}
    for op_node in bench.graph.op_nodes:
        layer = index.get(op_node.name) if not op_node.is_fallback else None
        if layer is None:
            if len(op_node.reads) == 1 and op_node.reads[0] in origin:
                origin.update(dict.fromkeys(op_node.writes, origin[op_node.reads[0]]))
            continue
        source = op_node.reads[0]
        if source in origin and origin[source] != layer:
            found[origin[source], layer] = None
        for other in readers.setdefault(source, []):
            if other != layer:
                found[other, layer] = None
        readers[source].append(layer)
        origin[op_node.writes[0]] = layer
    return list(found)
