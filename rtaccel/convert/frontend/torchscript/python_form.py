"""A ScriptModule as a module of Python, with the same submodules, parameters, buffers and attributes under the same names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript.constants import Constants
from rtaccel.convert.frontend.torchscript.numbers import materialized
from rtaccel.convert.frontend.torchscript.objects import Method
from rtaccel.convert.frontend.torchscript.program import Program
from rtaccel.convert.frontend.torchscript.reader import Reader
from rtaccel.convert.frontend.torchscript.refused import refusing
from rtaccel.convert.frontend.torchscript.signature import signature_of_method
from rtaccel.nn.arrays import first_line


def has_script(model: nn.Module) -> bool:
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())


def title_of(model: nn.Module) -> str:
    """The name of its class; of a module of TorchScript, that of the class it was made of."""
    return str(getattr(model, "original_name", "")) or type(model).__name__


def in_python(op: str, model: nn.Module) -> nn.Module:
    """The model itself where none of its modules is TorchScript; else a copy, with modules of Python in the place of these.

    What a graph holds that is not known raises UnsupportedProblem when the copy is called.
    """
    if not isinstance(model, nn.Module) or not has_script(model):
        return model
    copied = private_copy(op, model)
    if isinstance(copied, torch.jit.ScriptModule):
        return _python_form(copied)
    made: dict[int, nn.Module] = {}
    for module in [m for m in copied.modules() if not isinstance(m, torch.jit.ScriptModule)]:
        for name, child in list(module._modules.items()):
            if isinstance(child, torch.jit.ScriptModule):
                made[id(child)] = made.get(id(child)) or _python_form(child)
                module._modules[name] = made[id(child)]
    return copied


class PythonForm(nn.Module):
    """Runs the programs of one ScriptModule. Subclasses have its name, and a forward with its signature."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.training = training
        self.__dict__["_programs"] = {}
        self.__dict__["_signatures"] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Method):
            return self._run_method(args[0].name, *args[1:])
        return self._call_method("forward", *args, **kwargs)

    def _run_method(self, name: str, *values: Any) -> Any:
        """As a program calls it: with all arguments, and numbers that stay numbers."""
        program: Program = self.__dict__["_programs"][name]
        return program(self, self, *values)

    def _call_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """As Python calls it."""
        signature, kinds = self.__dict__["_signatures"][name]
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = (float(v) if k == "float" and type(v) is int else v for v, k in zip(bound.arguments.values(), kinds))
        return materialized(self._run_method(name, *values))

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_programs", ()):
            return partial(self._call_method, name)
        return super().__getattr__(name)


def _class_of(name: str, signature: inspect.Signature | None) -> type[PythonForm]:
    """signature: of forward; None where the module has none."""
    if signature is None:
        return type(name, (PythonForm,), {})

    def forward(self: PythonForm, *args: Any, **kwargs: Any) -> Any:
        return PythonForm.forward(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = (own, *signature.parameters.values())
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return type(name, (PythonForm,), {"forward": forward})


def _python_form(script: Any) -> nn.Module:
    try:
        if script._c._get_forward_hooks() or script._c._get_forward_pre_hooks():
            return _refused(script, "hooks of the whole module")
        every = list(_all(script._c))
        attributes = {name for module in every for name in _names(module)}
        return _Maker(frozenset(module._type().str() for module in every), attributes).make(script._c)
    except Exception as error:  # of torch's own reading, of a module that has what it does not know itself
        return _refused(script, f"what cannot be read ({type(error).__name__}: {first_line(error)})")


def _refused(script: Any, what: str) -> nn.Module:
    found = type(script.original_name, (PythonForm,), {})(training=False)
    found.__dict__["_programs"]["forward"] = refusing("forward", what)
    given = inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)
    found.__dict__["_signatures"]["forward"] = inspect.Signature([given]), ()
    return found


def _of(view: Any, module: Any) -> list[tuple[str, Any]]:
    """Submodules, parameters or buffers by name."""
    return list(view(module).items())


def _all(module: Any) -> Iterator[Any]:
    yield module
    for _, child in _of(torch._C.ModuleDict, module):
        yield from _all(child)


def _graphs(module: Any) -> Iterator[Any]:
    for name in module._method_names():
        graph = module._get_method(name).graph
        yield graph
        for node in graph.findAllNodes("prim::fork", True):
            yield node.g("Subgraph")


def _names(module: Any) -> Iterator[str]:
    """Of the attributes that its methods read and write: there is no list of those that are no tensors."""
    for graph in _graphs(module):
        for kind in ("prim::GetAttr", "prim::SetAttr"):
            for node in graph.findAllNodes(kind, True):
                yield node.s("name")


class _Maker:
    """kinds: names of the types of all modules. attributes: names that are read anywhere."""

    def __init__(self, kinds: frozenset[str], attributes: set[str]) -> None:
        self._kinds, self._attributes = kinds, attributes
        self._parameters: dict[int, nn.Parameter] = {}
        self._made: dict[Any, PythonForm] = {}
        self._kept: list[Tensor] = []

    def make(self, script: Any) -> PythonForm:
        identity = self._identity(script)
        if identity not in self._made:
            self._made[identity] = self._make(script)
        return self._made[identity]

    def _identity(self, script: Any) -> Any:
        """Equal for one module under two names, which torch does not tell: of one type, with the same tensors."""
        tensors = [t for m in _all(script) for _, t in (*_of(torch._C.ParameterDict, m), *_of(torch._C.BufferDict, m))]
        self._kept += tensors  # so that no other gets the id of one
        return (script._type().str(), *map(id, tensors)) if tensors else object()

    def _make(self, script: Any) -> PythonForm:
        methods = {name: script._get_method(name) for name in script._method_names()}
        signatures = {name: signature_of_method(method.schema) for name, method in methods.items()}
        own = signatures["forward"][0] if "forward" in signatures else None
        training = bool(script.getattr("training")) if script.hasattr("training") else False
        module = _class_of(script._type().str().split(".")[-1], own)(training)
        module.__dict__["_signatures"].update(signatures)
        for name, child in _of(torch._C.ModuleDict, script):
            module.add_module(name, self.make(child))
        for name, tensor in _of(torch._C.ParameterDict, script):
            module.register_parameter(name, self._parameter(tensor))
        for name, tensor in _of(torch._C.BufferDict, script):
            module.register_buffer(name, tensor)
        known = {"training", *module._modules, *module._parameters, *module._buffers}
        for name in sorted(self._attributes - known):
            if script.hasattr(name):
                module.__dict__[name] = script.getattr(name)
        reader = Reader(self._kinds, Constants(module))
        for name, method in methods.items():
            module.__dict__["_programs"][name] = reader.method(name, method.graph)
        return module

    def _parameter(self, tensor: Tensor) -> nn.Parameter:
        """One for each tensor, so that what shared a weight still does."""
        if not isinstance(tensor, nn.Parameter):
            tensor = self._parameters.setdefault(id(tensor), nn.Parameter(tensor.detach(), tensor.requires_grad))
        return tensor
