"""From a graph of the file to a torch.fx graph of small functions.

Constants are computed, numbers kept apart, and all problems collected.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import fx, nn

from rtaccel.convert.onnx import control, number_chains
from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.attributes import attribute, constant_node
from rtaccel.convert.onnx.dtypes import dtype_of
from rtaccel.convert.onnx.names import Names
from rtaccel.convert.onnx.table import OnnxOp, find
from rtaccel.convert.onnx.values import BROKEN, AsNumbers, Broken, Computed, Known, as_result, is_text, known_of
from rtaccel.core.errors import RtaccelError

_MOVES = {"Expand", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Tile", "Gather", "Cast"}
"""Operators that give zeros of zeros."""


class Refused(Exception):
    """A node that no function here computes."""


class Builder:
    """Builds the module of one graph.

    env: name -> what it stands for. captured: values of the graph around it, in the order of its further placeholders.
    problems: (operator, name of the node, why), of this graph and those inside.
    """

    def __init__(self, onnx: Any, opsets: Mapping[str, int], parent: Builder | None = None) -> None:
        self.onnx, self.opsets, self.parent = onnx, opsets, parent
        self.root, self.graph = nn.Module(), fx.Graph()
        self.names = Names(self.root)
        self.env: dict[str, Any] = {}
        self.captured: dict[str, Any] = {}
        self.problems: list[tuple[str, str, str]] = [] if parent is None else parent.problems
        self.node: Any = None
        self.readers: dict[str, set[str]] = {}

    # -- what functions that build ask --------------------------------------------------------------------------------

    def refuse(self, why: str) -> NoReturn:
        raise Refused(why)

    def known(self, ref: Any) -> np.ndarray | None:
        """The value of a constant."""
        if not isinstance(ref, Known):
            return None
        tensor = ref.tensor
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def is_number(self, ref: Any) -> bool:
        """Whether it is computed of shapes, and no tensor."""
        return isinstance(ref, Computed) and ref.numbers

    def constant(self, value: np.ndarray) -> Known:
        return Known(torch.from_numpy(np.array(value)), f"{self.node.output[0]}_index")

    def shape_of_constant(self, ref: Any) -> tuple[int, ...] | None:
        return tuple(ref.tensor.shape) if isinstance(ref, Known) else None

    def numbers(self, ref: Any, position: int) -> Any:
        """An input where a function takes numbers."""
        if ref is None:
            return None
        if isinstance(ref, Computed) and not ref.numbers:
            name = self.node.input[position]
            self.refuse(f"takes its input {position}, {name!r}, from computed values; a plan has fixed sizes")
        return AsNumbers(ref)

    def dtype_of(self, ref: Any) -> torch.dtype:
        return ref.tensor.dtype if isinstance(ref, Known) else ref.dtype

    def onnx_dtype(self, kind: int) -> torch.dtype:
        return dtype_of({21: 2, 22: 3}.get(kind, kind))

    def is_narrow(self, ref: Any) -> bool:
        return isinstance(ref, Known) and ref.kind in (21, 22)

    def narrow_limits(self, ref: Known) -> tuple[int, int]:
        return (0, 15) if ref.kind == 21 else (-8, 7)

    def read_by(self, kinds: set[str]) -> bool:
        """Whether everything that reads the node's first output is one of these operators."""
        readers = self.readers.get(self.node.output[0], {"output"})
        return readers <= kinds

    def call(self, run: Callable[..., Any], *args: Any, **attrs: Any) -> Any:
        """A call of a function: made now where all of its inputs are constants, else a node of the graph."""
        if any(isinstance(arg, Broken) for arg in args):
            return BROKEN
        if all(self._is_known(arg) for arg in args):
            with torch.no_grad():
                made = run(*(_value(arg) for arg in args), **attrs)
            source = next((arg.name for arg in args if isinstance(arg, Known)), self._output())
            return as_result(made, source)
        given = tuple(self._argument(arg) for arg in args)
        while given and given[-1] is None:
            given = given[:-1]
        return Computed(self.emit(run, given, attrs))

    def _is_known(self, arg: Any) -> bool:
        if isinstance(arg, AsNumbers):
            return self._is_known(arg.ref)
        if isinstance(arg, tuple):
            return all(self._is_known(part) for part in arg)
        return not isinstance(arg, Computed)

    def _output(self) -> str:
        return next((name for name in self.node.output if name), self.node.op_type)

    def _argument(self, arg: Any) -> Any:
        """As an argument of a node of the graph."""
        if isinstance(arg, AsNumbers):
            return arg.ref.literal() if isinstance(arg.ref, Known) else arg.ref.node
        if isinstance(arg, Known):
            return self._buffer(arg)
        if isinstance(arg, Computed):
            return self.emit(n.tensor, (arg.node, arg.dtype), {}) if arg.numbers else arg.node
        if isinstance(arg, tuple):
            return tuple(self._argument(part) for part in arg)
        return arg

    def _buffer(self, value: Known) -> fx.Node:
        if is_text(value):
            self.refuse(f"reads {value.name!r}, a tensor of text or of a type that torch does not compute in")
        target = self.names.register(value)
        return self.graph.get_attr(target)

    def emit(self, run: Callable[..., Any], args: tuple[Any, ...], attrs: Mapping[str, Any]) -> fx.Node:
        name = self.names.node(self.node.name or self._output()) if self.node is not None else None
        return self.graph.create_node("call_function", run, args, dict(attrs), name=name)

    # -- the graph ------------------------------------------------------------------------------------------------------

    def look_up(self, name: str) -> Any:
        """What a name stands for, here or in the graph around; values from there become placeholders."""
        if not name:
            return None
        if name in self.env:
            return self.env[name]
        assert self.parent is not None, name
        outer = self.parent.look_up(name)
        if not isinstance(outer, Computed):
            return outer
        self.captured[name] = outer
        node = self.graph.placeholder(self.names.node(name))
        self.env[name] = Computed(node, outer.numbers, outer.dtype)
        return self.env[name]

    def read(self, graph: Any) -> None:
        """Every node of a graph, in order; its inputs are in `env` already."""
        for tensor in graph.initializer:
            self.env.setdefault(tensor.name, known_of(self.onnx, tensor, tensor.name))
        for tensor in graph.sparse_initializer:
            self.problems.append(("sparse_initializer", tensor.values.name, "sparse constants are not read"))
            self.env[tensor.values.name] = BROKEN
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, set()).add(node.op_type)
        for entry in graph.output:
            self.readers.setdefault(entry.name, set()).add("output")
        _note_captures(graph, self.readers)
        for node in graph.node:
            self._read_node(node)

    def _read_node(self, node: Any) -> None:
        self.node = node
        results: Sequence[Any]
        try:
            results = self._results(node)
        except Refused as refused:
            self.problems.append((_title(node), node.name or self._output(), str(refused)))
            results = [BROKEN] * len(node.output)
        except RtaccelError as error:
            self.problems.append((_title(node), node.name or self._output(), f"{error.got}; expected {error.expected}"))
            results = [BROKEN] * len(node.output)
        for name, result in zip(node.output, results):
            if name:
                self.env[name] = result

    def _results(self, node: Any) -> Sequence[Any]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain == "" and node.op_type == "Constant":
            return [constant_node(self, node)]
        if domain == "" and node.op_type in control.BUILDS:
            return control.BUILDS[node.op_type](self, node)
        inputs = [self.look_up(name) for name in node.input]
        found = find(domain, node.op_type, self.opsets.get(domain, 1))
        attrs = {a.name: attribute(self, a) for a in node.attribute}
        if domain == "" and node.op_type in ("Shape", "Size") and not any(isinstance(i, Broken) for i in inputs):
            return [number_chains.shape(self, node, inputs[0], attrs)]
        if any(isinstance(i, Broken) for i in inputs):
            if found is None and node.op_type not in ("Shape", "Size"):
                self.refuse("has no form here")
            return [BROKEN] * len(node.output)
        hosted = number_chains.carried_on(self, node, inputs, attrs) if domain == "" else None
        if hosted is not None:
            return hosted
        if found is None and inputs and all(isinstance(i, (Known, type(None))) for i in inputs):
            return self._evaluated(node, inputs)
        if found is None:
            self.refuse("has no form here")
        return self._called(node, found, inputs, attrs)

    def _evaluated(self, node: Any, inputs: list[Any]) -> Sequence[Any]:
        """A node that only constants come to, by the reference of the package."""
        from onnx.reference import ReferenceEvaluator

        if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
            self.refuse("draws random numbers")
        try:
            given = {name: self.known(ref) for name, ref in zip(node.input, inputs) if name}
            made = ReferenceEvaluator(node, opsets=dict(self.opsets)).run(None, given)
            return [Known(torch.from_numpy(np.array(part)), name) for part, name in zip(made, node.output)]
        except Exception as error:
            return self.refuse(f"has no form here, and its constants cannot be computed: {error}")

    def _called(self, node: Any, found: OnnxOp, inputs: list[Any], attrs: dict[str, Any]) -> Sequence[Any]:
        odd = [name for name in attrs if name not in found.attributes] if not found.any_attribute else []
        if odd:
            self.refuse(
                f"has attributes {', '.join(odd)} that opset {self.opsets.get(found.domain, 1)} gives no meaning here"
            )
        context = {"opset": self.opsets.get(found.domain, 1), "outputs": len(node.output)}
        attrs = {**attrs, **{name: context[name] for name in found.wants}}
        if found.builds:
            made = found.run(self, *inputs, **attrs)
        else:
            given = [
                self.numbers(ref, i) if i in found.numbers else self._scalar(ref) if i in found.scalars else ref
                for i, ref in enumerate(inputs)
            ]
            made = self.call(found.run, *given, **attrs)
        if isinstance(made, (tuple, list)):
            return made
        if isinstance(made, Computed):
            made.zeros = self._gives_zeros(node, inputs, attrs)
        if isinstance(made, Computed) and (len(node.output) > 1 or node.op_type == "Split"):
            parts = range(len(node.output))
            return [Computed(self.graph.call_function(operator.getitem, (made.node, i))) for i in parts]
        return [made]

    def is_zero(self, ref: Any) -> bool:
        """Whether a value is known to hold zeros alone, whatever its shape."""
        if isinstance(ref, Computed):
            return ref.zeros
        known = self.known(ref)
        return known is not None and known.dtype.kind in "fiu" and not known.any()

    def _gives_zeros(self, node: Any, inputs: list[Any], attrs: Mapping[str, Any]) -> bool:
        if node.op_type == "ConstantOfShape":
            return "value" not in attrs or not attrs["value"].tensor.any()
        return node.op_type in _MOVES and bool(inputs) and self.is_zero(inputs[0])

    def _scalar(self, ref: Any) -> Any:
        return ref.tensor.reshape(-1)[0].item() if isinstance(ref, Known) and ref.tensor.numel() == 1 else ref

    def output(self, name: str) -> Any:
        """A value as a result of the graph: a tensor."""
        ref = self.look_up(name)
        self.node = None
        return None if isinstance(ref, Broken) else self._argument(ref)

    def module(self, title: str, outputs: Any) -> fx.GraphModule:
        self.graph.output(outputs)
        self._placeholders_first()
        whole = fx.GraphModule(self.root, self.graph, title)
        whole.graph.eliminate_dead_code()
        whole.graph.lint()
        return fx.GraphModule(whole, whole.graph, title)  # with the weights that are left

    def _placeholders_first(self) -> None:
        """Values captured on the way have placeholders where they were met."""
        first = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and first is not None:
                first.prepend(node)


def _value(arg: Any) -> Any:
    if isinstance(arg, AsNumbers):
        return _value(arg.ref)
    if isinstance(arg, tuple):
        return tuple(_value(part) for part in arg)
    return arg.tensor if isinstance(arg, Known) else arg


def _title(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _note_captures(graph: Any, readers: dict[str, set[str]]) -> None:
    """Names that graphs inside read."""
    for node in graph.node:
        for attr in node.attribute:
            for inner in [attr.g, *attr.graphs] if attr.HasField("g") or attr.graphs else ():
                for reader in inner.node:
                    for name in reader.input:
                        readers.setdefault(name, set()).add(reader.op_type)
                for entry in inner.output:
                    readers.setdefault(entry.name, set()).add("output")
                _note_captures(inner, readers)
