"""Drafts to a program: schemes become numbers, int8 edges are decided, and stages that share rows are grouped."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.calibrate import calibrate
from rtaccel.convert.capture import Captured
from rtaccel.convert.draft import Draft
from rtaccel.convert.graph import DraftGraph, drafts_of
from rtaccel.convert.layers import Layer, decide_draft, parts
from rtaccel.convert.program import GroupStep, Program, TorchStep
from rtaccel.core.errors import RtaccelError
from rtaccel.core.scheme import SchemeMap
from rtaccel.core.stage import Port, Quant, Stage, Value
from rtaccel.plan.group import Group


def lower(captured: Captured, scheme: SchemeMap, calibration: Any) -> Program:
    """The whole way from a captured graph to a program. Raises typed errors; nothing is half done."""
    graph = drafts_of(captured)
    layers: dict[str, Layer] = {}
    notes: list[str] = []
    wanted: dict[str, Any] = {}
    for draft in graph.drafts:
        if draft.op != "linear":
            continue
        layer = decide_draft(draft, scheme, calibration is not None, notes)
        layers[draft.node.name] = layer
        if layer.observer is not None:
            wanted[draft.reads[0]] = layer.observer
    quants = calibrate(captured, calibration, wanted) if wanted else {}
    for draft in graph.drafts:
        found = layers.get(draft.node.name)
        if found is not None and found.observer is not None:
            layers[draft.node.name] = replace(found, quant=quants[draft.reads[0]])
    return _Emitter(captured, graph, layers).program(tuple(notes))


class _Emitter:
    """Turns drafts into steps. One use."""

    def __init__(self, captured: Captured, graph: DraftGraph, layers: dict[str, Layer]) -> None:
        self.captured, self.graph, self.layers = captured, graph, layers
        self.nodes = {node.name: node for node in captured.graph.nodes}
        self.users: dict[str, list[Draft]] = {}
        for draft in graph.drafts:
            for name in draft.reads:
                self.users.setdefault(name, []).append(draft)
        self.outputs = {o for o in graph.outputs if isinstance(o, str)}
        self.forms: dict[str, list[Quant]] = {}

    def program(self, notes: tuple[str, ...]) -> Program:
        steps: list[GroupStep | TorchStep] = []
        done = {*self.captured.inputs, *self.captured.constants, *self.graph.views}
        pending = list(self.graph.drafts)
        while pending:
            ready = [d for d in pending if set(d.reads) <= done]
            calls = [d for d in ready if d.op == "torch"]
            if calls:
                steps.extend(TorchStep(d.node, d.name, d.reason) for d in calls)
                taken = calls
            else:
                taken = self._closure(pending, ready[0].frame, done)
                steps.append(self._group(taken))
            done |= {d.node.name for d in taken}
            pending = [d for d in pending if d not in taken]
        torch_nodes = [s.node for s in steps if isinstance(s, TorchStep)]
        read = {n.name for node in torch_nodes for n in node.all_input_nodes}
        return Program(
            steps=tuple(steps),
            inputs=self.captured.inputs,
            shapes=tuple(_shape(self.nodes[name]) for name in self.captured.inputs),
            outputs=self.graph.outputs,
            constants={k: v for k, v in self.captured.constants.items() if k in read or k in self.outputs},
            alias=self.graph.alias,
            views={name: (view.source, len(view.frame)) for name, view in self.graph.views.items()},
            any_batch=self.captured.any_batch,
            in_spec=self.captured.in_spec,
            out_spec=self.captured.out_spec,
            notes=notes,
        )

    @staticmethod
    def _closure(pending: list[Draft], frame: tuple[Any, ...], done: set[str]) -> list[Draft]:
        """Every draft that can run now with these rows, counting what others of the group give."""
        taken: list[Draft] = []
        known = set(done)
        for draft in pending:
            if draft.op != "torch" and draft.frame == frame and set(draft.reads) <= known:
                taken.append(draft)
                known.add(draft.node.name)
        return taken

    def _port(self, name: str, frame: tuple[Any, ...]) -> Port:
        view = self.graph.views.get(name)
        if view is not None:
            return Port(Value(name, prod(view.trailing)), len(frame), view.trailing)
        width = int(self.nodes[name].meta["val"].shape[-1])
        return Port(Value(name, width), len(frame), (width,))

    def _group(self, drafts: list[Draft]) -> GroupStep:
        names = {d.node.name for d in drafts}
        frame = drafts[0].frame
        reads = list(dict.fromkeys(r for d in drafts for r in d.reads if r not in names))
        writes = [
            d.node.name
            for d in drafts
            if d.node.name in self.outputs or any(u.node.name not in names for u in self.users.get(d.node.name, []))
        ]
        # The order of the model's own arguments and results, so that they can go straight through.
        rank = {name: i for i, name in enumerate((*self.captured.inputs, *dict.fromkeys(self.graph.outputs)))}
        reads.sort(key=lambda name: rank.get(self._environment_name(name), len(rank)))
        writes.sort(key=lambda name: rank.get(name, len(rank)))
        stages: list[Stage] = []
        for draft in drafts:
            try:
                self._emit(draft, stages, set(writes))
            except RtaccelError as error:
                raise type(error)(
                    f"compile: {draft.name}: {error.op}", error.got, error.expected, error.next_step
                ) from error
        group = Group(
            tuple(stages),
            tuple(self._port(r, frame) for r in reads),
            tuple(self._port(w, frame) for w in writes),
        )
        return GroupStep(group, tuple(self._environment_name(r) for r in reads), tuple(writes))

    def _environment_name(self, name: str) -> str:
        return self.graph.views[name].source if name in self.graph.views else name

    def _emit(self, draft: Draft, stages: list[Stage], writes: set[str]) -> None:
        name, frame = draft.node.name, draft.frame
        layer = self.layers.get(name)
        tensors, attrs = parts(draft, layer)
        if layer is None or not layer.int8:
            inputs = tuple(self._port(r, frame).value for r in draft.reads)
            stages.append(Stage(draft.op, draft.name, inputs, (Value(name, draft.width),), tensors, attrs))
            return
        inputs = self._int8(draft.reads[0], frame, layer, draft.name, stages)
        output = Value(name, draft.width)
        shared = {self._static(user) for user in self.users.get(name, [])}
        if name not in writes and len(shared) == 1 and (quant := shared.pop()) is not None:
            output = Value(self._int8_name(name, quant), draft.width, "int8", quant)
        stages.append(Stage("linear", draft.name, inputs, (output,), tensors, attrs))

    def _static(self, user: Draft) -> Quant | None:
        """The static scale that a reader wants its input in; None for one that reads float32 or scales rows itself."""
        layer = self.layers.get(user.node.name)
        return layer.quant if layer is not None and layer.int8 else None

    def _int8_name(self, name: str, quant: Quant) -> str:
        """Layers that read the same value with the same scale share its int8 form."""
        known = self.forms.setdefault(name, [])
        if quant not in known:
            known.append(quant)
        index = known.index(quant)
        return f"{name}:int8" + (f".{index}" if index else "")

    def _int8(
        self, name: str, frame: tuple[Any, ...], layer: Layer, where: str, stages: list[Stage]
    ) -> tuple[Value, ...]:
        """The int8 form of a float value: already there, or through a quantize stage that is added now."""
        source = self._port(name, frame).value
        if layer.quant is None:
            wanted: tuple[Value, ...] = (Value(f"{name}:rows", source.width, "int8"), Value(f"{name}:row_scale", 1))
        else:
            wanted = (Value(self._int8_name(name, layer.quant), source.width, "int8", layer.quant),)
        if not any(v.name == wanted[0].name for stage in stages for v in stage.outputs):
            stages.append(Stage("quantize", f"{where} (input)", (source,), wanted))
        return wanted


def _shape(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None
