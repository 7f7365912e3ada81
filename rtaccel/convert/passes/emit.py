"""Nodes to steps: int8 edges are decided, stages are made, and those that can run as one are grouped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.graph.values import sizes, stored_apart
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.passes.program import Argument, FallbackStep, Program, SubgraphStep
from rtaccel.convert.quantization.scheme_rules import LayerPlan, StageWeights, parts, stage_weights
from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.core.registry import operator, with_role
from rtaccel.core.stage import GraphIO, QParams, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.kernels._common.activations import before_int8
from rtaccel.plan.group import Subgraph


class Emitter:
    """Turns nodes into steps. One use."""

    def __init__(
        self,
        exported: ExportedGraph,
        graph: OpGraph,
        layers: Mapping[str, LayerPlan],
        states: frozenset[str] | None = None,
        stage_weights: StageWeights = stage_weights,
    ) -> None:
        """states: of a graph over one time step, the values that are kept; None for an ordinary graph. stage_weights: what
        stores a weight as its scheme has it."""
        self._stage_weights = stage_weights
        self.exported, self.graph, self.layers = exported, graph, layers
        self.time_step, self.states = states is not None, states or frozenset()
        self.nodes = {node.name: node for node in exported.graph.nodes}
        self.users: dict[str, list[OpNode]] = {}
        for op_node in graph.op_nodes:
            for name in op_node.reads:
                self.users.setdefault(name, []).append(op_node)
        self.outputs = {o for o in graph.outputs if isinstance(o, str)}
        self.outputs |= {graph.views[o].base for o in self.outputs if o in graph.views}
        self.forms: dict[str, list[QParams]] = {}

    def program(self, notes: tuple[str, ...]) -> Program:
        steps: list[SubgraphStep | FallbackStep] = []
        done = {*self.exported.inputs, *self.graph.constants, *self.states}
        pending = list(self.graph.op_nodes)
        while pending:
            ready = [d for d in pending if set(d.reads) <= done]
            taken = [d for d in ready if d.is_fallback]
            if taken:
                steps.extend(FallbackStep(d.node, d.name, d.reason) for d in taken)
            else:
                taken = self._closure(pending, done)
                if not taken:
                    lost = {name for d in pending for name in d.reads} - done - {w for d in pending for w in d.writes}
                    raise AssertionError(
                        f"{', '.join(d.name for d in pending)} read {sorted(lost)}, which nothing gives"
                    )
                steps.append(self._group(taken))
            done |= {name for d in taken for name in d.writes}
            pending = [d for d in pending if d not in taken]
        torch_nodes = [s.node for s in steps if isinstance(s, FallbackStep)]
        read = {n.name for node in torch_nodes for n in node.all_input_nodes} | self.outputs
        views = {n: v for n, v in self.graph.views.items() if n in read and not (n == v.base and self._own(n))}
        return Program(
            steps=tuple(steps),
            inputs=self.exported.inputs,
            arguments=tuple(_argument(self.nodes[name]) for name in self.exported.inputs),
            outputs=self.graph.outputs,
            constants={k: v for k, v in self.graph.constants.items() if k in read},
            views=views,
            casts={n: dtype for n in views if (dtype := self._returned_as(n)) is not None},
            batched=self.graph.batch,
            batch=self.exported.batch,
            in_spec=self.exported.in_spec,
            out_spec=self.exported.out_spec,
            notes=notes,
        )

    def _returned_as(self, name: str) -> torch.dtype | None:
        """What the tensor of a view is for torch and the caller, where its value holds another dtype."""
        node, view = self.nodes.get(name), self.graph.views[name]
        dtype = None if node is None else stored_apart(node)
        return None if str(dtype).endswith(f".{self.graph.buffers[view.base].dtype}") else dtype

    @staticmethod
    def _closure(pending: list[OpNode], done: set[str]) -> list[OpNode]:
        """Every node that can run now, counting what others of the group give."""
        taken: list[OpNode] = []
        known = set(done)
        for op_node in pending:
            if not op_node.is_fallback and set(op_node.reads) <= known:
                taken.append(op_node)
                known.update(op_node.writes)
        return taken

    def value(self, name: str) -> Value:
        buffer = self.graph.buffers[name]
        return Value(name, buffer.width or buffer.elements, buffer.dtype, None, buffer.steps)

    def _port(self, name: str) -> GraphIO:
        """A value at the edge, shaped as the caller's tensor is."""
        lead = int(self.graph.batch)
        node = self.nodes.get(name)
        if node is not None and self._own(name) and not self.time_step:
            trailing = sizes(node.meta["val"])[lead:]
        else:
            trailing = self.graph.trailing.get(name, self.value(name).shape)
        return GraphIO(self.value(name), lead, trailing)

    def _own(self, name: str) -> bool:
        """Whether a value is a tensor as torch has it: an input, or made by a torch call."""
        return name in self.exported.inputs or any(d.is_fallback and name in d.writes for d in self.graph.op_nodes)

    def _group(self, op_nodes: list[OpNode]) -> SubgraphStep:
        names = {name for d in op_nodes for name in d.writes}
        reads = list(dict.fromkeys(r for d in op_nodes for r in d.reads if r not in names))
        if len(op_nodes) == len(self.graph.op_nodes) and not self.time_step:
            reads += self._unread(reads)
        writes = [
            name
            for d in op_nodes
            for name in d.writes
            if name in self.outputs or any(not names & {*u.writes} for u in self.users.get(name, []))
        ]
        # The order of the model's own arguments and results, so that they can go straight through.
        rank = {name: i for i, name in enumerate((*self.exported.inputs, *dict.fromkeys(self.graph.outputs)))}
        reads.sort(key=lambda name: rank.get(name, len(rank)))
        writes.sort(key=lambda name: rank.get(name, len(rank)))
        stages: list[Stage] = []
        for op_node in op_nodes:
            try:
                self._emit(op_node, stages, set(writes))
            except RtaccelError as error:
                raise type(error)(
                    f"compile: {op_node.name}: {error.op}", error.got, error.expected, error.next_step
                ) from error
        group = Subgraph(tuple(stages), tuple(map(self._port, reads)), tuple(map(self._port, writes)))
        return SubgraphStep(by_rows(group) if self.graph.batch else group, tuple(reads), tuple(writes))

    def _unread(self, reads: list[str]) -> list[str]:
        """Arguments that nothing reads, of a model that is one group: with them its arguments go straight through."""
        left = [name for name in self.exported.inputs if name not in reads]
        return left if all(name in self.graph.buffers for name in left) else []

    def _emit(self, op_node: OpNode, stages: list[Stage], writes: set[str]) -> None:
        layer = self.layers.get(op_node.writes[0])
        tensors, attrs = parts(op_node, layer, self._stage_weights)
        first: tuple[Value, ...] = (self.value(op_node.reads[0]),)
        contract = op_node.operator
        if layer is not None and layer.int8 and (layer.quant is not None or contract.int8.reads_rows):
            first = self._int8(op_node.reads[0], layer, op_node.name, stages)
        inputs = [*first, *(self.value(r) for r in op_node.reads[1:])]
        outputs = [self.value(name) for name in op_node.writes]
        carried = {*op_node.reads} & {*op_node.writes}
        if carried and contract.streaming is not None and contract.streaming.keeps_input and layer and layer.int8:
            inputs = [self._past(v, op_node, layer) if v.name in carried else v for v in inputs]
            outputs = [self._past(v, op_node, layer) if v.name in carried else v for v in outputs]
        int8 = contract.int8.writes or (layer is not None and layer.int8)
        quant = self._asked(op_node.writes[0], writes) if int8 else None
        if quant is not None:
            if "activation" in attrs:
                attrs = {
                    **attrs,
                    "activation": before_int8(attrs["activation"], attrs.get("activation_parameter", 0.0), quant),
                }
            outputs[0] = replace(outputs[0], name=self._int8_name(op_node.writes[0], quant), dtype="int8", quant=quant)
        if contract.int8.beside:
            outputs, attrs["gives"] = self._beside(op_node.writes, outputs, writes)
        op = contract.weights.computed_by(attrs) if contract.weights is not None else None
        stages.append(Stage(op or op_node.op, op_node.name, tuple(inputs), tuple(outputs), tensors, attrs))

    @staticmethod
    def _past(value: Value, op_node: OpNode, layer: LayerPlan) -> Value:
        """The past of an input that is streamed in int8: it holds numbers, so they need a scale that stays."""
        if layer.quant is None:
            raise FormatError(
                "stream", f"{layer.scheme} for {op_node.name} without calibration data", "static scales for convolutions",
                "Pass calibration= with windows of real inputs.",
            )  # fmt: skip
        return replace(value, dtype="int8", quant=layer.quant)

    def _asked(self, name: str, writes: set[str]) -> QParams | None:
        """The static scale that every reader of a value wants it in, so that it can be written so from the start."""
        shared = {self._static(user, name) for user in self.users.get(name, [])}
        return shared.pop() if name not in writes and len(shared) == 1 else None

    def _static(self, user: OpNode, name: str) -> QParams | None:
        """The static scale that a reader wants a value in; None for one that reads float32 or scales rows itself."""
        layer = self.layers.get(user.writes[0])
        if layer is None or not layer.int8 or user.reads[0] != name or name in user.reads[1:]:
            return None
        return layer.quant

    def _beside(self, names: list[str], outputs: list[Value], writes: set[str]) -> tuple[list[Value], str]:
        """The outputs of an operator that gives a value as float32, as int8 in the form that most readers want, or both."""
        name, given = names[0], outputs[0]
        wanted: list[tuple[Value, ...]] = []
        floats = name in writes
        for user in self.users.get(name, []):
            layer = self.layers.get(user.writes[0])
            if layer is None or not layer.int8 or user.reads[0] != name or name in user.reads[1:]:
                floats = True
            elif layer.quant is not None or user.operator.int8.reads_rows:
                wanted.append(self._forms(name, layer))
            else:
                floats = True
        best = max(wanted, key=wanted.count, default=())
        floats = floats or any(form != best for form in wanted)
        roles = ["y"] * floats + ["q", "row_scale"][: len(best)] + ["sum"] * (len(names) - 1)
        return [given] * floats + list(best) + outputs[1:], ",".join(roles)

    def _forms(self, name: str, layer: LayerPlan) -> tuple[Value, ...]:
        """A float32 value as an int8 layer reads it: with its static scale, or with a scale for each row."""
        source = self.value(name)
        if layer.quant is None:
            return replace(source, name=f"{name}:rows", dtype="int8"), Value(f"{name}:row_scale", 1, steps=source.steps)
        return (replace(source, name=self._int8_name(name, layer.quant), dtype="int8", quant=layer.quant),)

    def _int8_name(self, name: str, quant: QParams) -> str:
        """Layers that read the same value with the same scale share its int8 form."""
        known = self.forms.setdefault(name, [])
        if quant not in known:
            known.append(quant)
        index = known.index(quant)
        return f"{name}:int8" + (f".{index}" if index else "")

    def _int8(self, name: str, layer: LayerPlan, where: str, stages: list[Stage]) -> tuple[Value, ...]:
        """The int8 form of a float value: already there, or through a quantize stage that is added now."""
        wanted = self._forms(name, layer)
        if not any(v.name == wanted[0].name for stage in stages for v in stage.outputs):
            make = with_role(Role.QUANTIZE).make_int8
            assert make is not None
            stages.append(make(f"{where} (input)", self.value(name), wanted, layer.factor))
        return wanted


def by_rows(group: Subgraph) -> Subgraph:
    """A group whose operators all treat rows alike: every row is a sample for its kernels. The dimensions between the
    batch and the row keep their sizes, which the model's code may depend on."""
    ports = (*group.inputs, *group.outputs)
    shapes = {p.trailing[: len(p.trailing) - 1] for p in ports}
    values = [v for s in group.stages for v in (*s.inputs, *s.outputs)]
    plain = all(p.trailing and p.trailing[-1] == p.value.width for p in ports) and len(shapes) == 1
    if not plain or not all(operator(s.op).by_row for s in group.stages):
        return group
    shape = shapes.pop()
    if any(v.steps != prod(shape) for v in values):
        return group

    def port(p: GraphIO) -> GraphIO:
        return GraphIO(replace(p.value, steps=1), p.lead + len(shape), p.trailing[-1:], shape)

    return Subgraph(
        tuple(s.matrices() for s in group.stages), tuple(map(port, group.inputs)), tuple(map(port, group.outputs))
    )


def _argument(node: fx.Node) -> Argument:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return Argument(node.name, value=value)
    return Argument(node.name, value.dtype, tuple(s if isinstance(s, int) else None for s in value.shape))
