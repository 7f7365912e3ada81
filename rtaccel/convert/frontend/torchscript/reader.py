"""From the graph of a method to a program: each node becomes a step. What is not known raises when the step is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.torchscript.constants import Constants
from rtaccel.convert.frontend.torchscript.nodes import function_of
from rtaccel.convert.frontend.torchscript.objects import call_method
from rtaccel.convert.frontend.torchscript.operators import operator_of
from rtaccel.convert.frontend.torchscript.program import OWNER, Block, Branch, Call, Program, Rounds, Step
from rtaccel.convert.frontend.torchscript.python_calls import PYTHON_FUNCTIONS
from rtaccel.convert.frontend.torchscript.refused import refuse, refusing
from rtaccel.nn.arrays import first_line

_LINES = (re.compile(r'File "([^"]+)", line (\d+)'), re.compile(r"^(\S+)\((\d+)\)", re.M))


class Reader:
    """Reads graphs of one module. modules: names of the types of modules below it. constants: takes the tensors of the graphs."""

    def __init__(self, modules: frozenset[str], constants: Constants) -> None:
        self._modules, self._constants = modules, constants
        self._functions: dict[str, Program] = {}

    def method(self, name: str, graph: Any) -> Program:
        """The program of a method. One that cannot be read raises when it is called, and some never are."""
        try:
            return self.program(name, graph)
        except Exception as error:
            return refusing(name, f"a graph that is not read ({type(error).__name__}: {first_line(error)})")

    def program(self, name: str, graph: Any) -> Program:
        scopes: dict[int, str] = {}
        return Program(name, self._block(graph, tuple(v.unique() for v in graph.inputs()), scopes))

    def _block(self, block: Any, takes: tuple[int, ...], scopes: dict[int, str]) -> Block:
        steps = [step for node in block.nodes() for step in self._steps(node, scopes)]
        return Block(takes, tuple(steps), tuple(v.unique() for v in block.outputs()))

    def _inner(self, block: Any, scopes: dict[int, str]) -> Block:
        return self._block(block, tuple(v.unique() for v in block.inputs()), scopes)

    def _steps(self, node: Any, scopes: dict[int, str]) -> list[Step]:
        kind, writes, where = node.kind(), tuple(v.unique() for v in node.outputs()), line_of(node)
        reads = tuple(v.unique() for v in node.inputs())
        if kind in ("prim::Constant", "prim::ConstantMKLDNNTensor"):
            return self._constant(node, writes, where, scopes)
        if kind == "prim::If":
            yes, no = (self._inner(block, scopes) for block in node.blocks())
            return [Branch(reads[0], yes, no, writes, where)]
        if kind == "prim::Loop":
            (body,) = (self._inner(block, scopes) for block in node.blocks())
            return [Rounds(reads[0], reads[1], reads[2:], body, writes, where)]
        if kind == "prim::CallFunction":
            own = PYTHON_FUNCTIONS.get(str(node.inputsAt(0).type()))
            if own is not None:
                return [Call(own, reads[1:], writes, where)]
            return [Call(self._function(node), (OWNER, *reads[1:]), writes, where)]
        if kind == "prim::fork":
            return [Call(self.program("fork", node.g("Subgraph")), (OWNER, *reads), writes, where)]
        if kind == "prim::CallMethod":
            return [self._method(node, reads, writes, where)]
        run = function_of(node)
        schema = "" if run is not None else node.schema()
        if run is None and schema != "(no schema)":
            run = operator_of(schema)
        if run is None:
            run = partial(refuse, kind, where)
        named = {scopes[place] for place in reads if place in scopes}
        scope = named.pop() if len(named) == 1 else ""
        if kind == "prim::ListConstruct" and scope:  # the weights of a recurrent layer
            scopes[writes[0]] = scope
        return [Call(run, reads, writes, where, scope)]

    def _constant(self, node: Any, writes: tuple[int, ...], where: str, scopes: dict[int, str]) -> list[Step]:
        output = node.output()
        if output.type().kind() == "FunctionType":
            return []
        value = node.t("value") if node.kind() == "prim::ConstantMKLDNNTensor" else output.toIValue()
        if isinstance(value, torch.ScriptObject):
            return [Call(partial(refuse, f"an object of {output.type().str()}", where), (), writes, where)]
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            return [Call(partial(_given, value), (), writes, where)]
        read, scope = self._constants.keep(output.debugName(), value)
        if scope:
            scopes[writes[0]] = scope
        return [Call(read, (OWNER,), writes, where)]

    def _function(self, node: Any) -> Callable[..., Any]:
        name = str(node.inputsAt(0).type())
        if name not in self._functions:
            self._functions[name] = self.program(name, inlined(node))
        return self._functions[name]

    def _method(self, node: Any, reads: tuple[int, ...], writes: tuple[int, ...], where: str) -> Call:
        """Of a module, which has programs of its own; a method of another class is read where it is called."""
        kind, name = node.inputsAt(0).type(), node.s("name")
        if kind.is_interface_type() or kind.str() in self._modules:
            return Call(partial(call_method, name), reads, writes, where)
        if f"{kind.str()}.{name}" not in self._functions:
            try:
                self._functions[f"{kind.str()}.{name}"] = self.program(name, inlined(node))
            except RuntimeError:
                return Call(partial(refuse, f"{kind.str()}.{name}", where), reads, writes, where)
        return Call(self._functions[f"{kind.str()}.{name}"], (OWNER, *reads), writes, where)


def inlined(node: Any) -> Any:
    """The graph of the function or method that a node calls; its inputs are those of the node, less the function itself."""
    graph: Any = torch._C.Graph()
    given = []
    for value in node.inputs():  # an input for each, as another call may give two where this one gives one twice
        if value.type().kind() == "FunctionType":
            constant = graph.createClone(value.node(), lambda v: v)
            graph.appendNode(constant)
            given.append(constant.output())
        else:
            given.append(graph.addInput())
            given[-1].setType(value.type())
    call = graph.create(node.kind(), given, node.outputsSize())
    call.copyAttributes(node)
    graph.appendNode(call)
    for made, value in zip(call.outputs(), node.outputs()):
        made.setType(value.type())
        graph.registerOutput(made)
    torch._C._jit_pass_inline(graph)
    return graph


def line_of(node: Any) -> str:
    text = node.sourceRange()
    for pattern in _LINES:
        found = pattern.search(text)
        if found:
            return f"{found[1].rsplit('/', 1)[-1]}:{found[2]}"
    return ""


def _given(value: Any) -> Any:
    return value
