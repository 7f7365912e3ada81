"""The numbers of a compiled model as plain buffers, so that its state dict is an ordinary one, and complete.

`params.<module>.<tensor>` are the logical weights of the stage that came from a module; `.output_scale` and
`.output_zero_point` what its int8 output means, `.input_scale` and so on what its input becomes on the way to int8;
`.h_scale` the range of a recurrent state. A module that is called several times has `.call1`, `.call2` behind its name.
`constants.<name>` are parameters of calls that fall back to PyTorch. `structure` says, as JSON in bytes, how each layer
is computed: a model of another scheme takes the state by it.
All of it is copied when it is loaded and when it is given out: a compiled
model shares memory with nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.passes.program import Program
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import QuantMap, Stage
from rtaccel.nn.check import copied, is_plain
from rtaccel.runtime.state import structure
from rtaccel.runtime.state.check import check

STRUCTURE = "structure"
_INPUT = " (input)"


@dataclass(frozen=True)
class Entry:
    """A tensor of the state. kind: "tensor" or "attr" of the stage number `stage`, "scale" or "zero_point" of a value,
    or "constant"; name: of it."""

    key: str
    kind: str
    name: str
    stage: int
    value: Tensor


def entries(program: Program) -> list[Entry]:
    """What a program holds, in the order of its stages."""
    found: dict[str, Entry] = {}
    values: set[str] = set()
    for index, stage in enumerate(program.stages):
        own = list(_of_stage(stage, index, values))
        prefix, calls = "", 0
        while any(_key(stage, prefix, e) in found for e in own):
            calls += 1
            prefix = f"call{calls}."
        for entry in own:
            key = _key(stage, prefix, entry)
            found[key] = Entry(key, entry.kind, entry.name, index, entry.value)
    for name, tensor in program.constants.items():
        found[f"constants.{name}"] = Entry(f"constants.{name}", "constant", name, -1, tensor)
    return list(found.values())


def _of_stage(stage: Stage, index: int, values: set[str]) -> Iterator[Entry]:
    """Entries with the name that they have within their module."""
    inserted = stage.name.endswith(_INPUT)
    for name, tensor in stage.tensors.items():
        yield Entry(f"input_column_{name}" if inserted else name, "tensor", name, index, tensor)
    for name in calibrated(stage):
        number = torch.tensor(stage.attrs[name], dtype=torch.float64, device="cpu")
        yield Entry(name, "attr", name, index, number)
    read = {v.name for v in stage.inputs}
    for place, value in enumerate(stage.outputs):
        carried = value.name in read and stage.inputs[0].quant is not None  # a ring means what the input does
        if value.quant is None or value.name in values or carried:
            continue
        values.add(value.name)
        what = "input" if inserted else "output" + (str(place) if place else "")
        scale = torch.tensor(value.quant.scale, dtype=torch.float64, device="cpu")
        zero = torch.tensor(value.quant.zero_point, dtype=torch.int32, device="cpu")
        yield Entry(f"{what}_scale", "scale", value.name, index, scale)
        yield Entry(f"{what}_zero_point", "zero_point", value.name, index, zero)


def calibrated(stage: Stage) -> list[str]:
    """Attributes of a stage that are numbers found in data, and so a part of the state."""
    return [name for name, value in stage.attrs.items() if name.endswith("_scale") and isinstance(value, float)]


def _key(stage: Stage, prefix: str, entry: Entry) -> str:
    return f"params.{stage.name.removesuffix(_INPUT)}.{prefix}{entry.key}"


class _Locked(dict[str, Any]):
    """Buffers that nobody replaces one by one: the plan was packed from all of them together."""

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not is_plain(value):
            raise UnsupportedProblem(
                "compiled model",
                "a torch transform or compiler that goes through it",
                "layers of torch, or swapped ones",
                "Compile the whole model that it is a part of, with the layers that it was compiled from.",
            )
        raise UnsupportedProblem(
            "compiled model",
            f"another tensor as {name} (torch.func.functional_call, or an assignment)",
            "load_state_dict with the whole state",
            "The kernels read packed copies, which such a tensor would not reach.",
        )


class Node(nn.Module):
    """A place in the tree of modules, with the buffers of that module."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def lock(self) -> None:
        object.__setattr__(self, "_buffers", _Locked(self._buffers))

    def put(self, name: str, tensor: Tensor) -> None:
        dict.__setitem__(self._buffers, name, tensor)

    def child(self, name: str) -> Node:
        if name not in self._modules:
            self._modules[name] = Node()
        found = self._modules[name]
        assert isinstance(found, Node)
        return found

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, buffer in self._buffers.items():
            if buffer is not None:
                destination[prefix + name] = buffer.clone()

    def _load_from_state_dict(self, *_: Any) -> None:
        """The model loads all of it at once."""


class State:
    """The tree of buffers of a compiled model and where each belongs in its program."""

    def __init__(self, program: Program) -> None:
        self.entries = {entry.key: entry for entry in entries(program)}
        described = structure.to_tensor(program)
        self.tensors = {key: copied(entry.value) for key, entry in self.entries.items()} | {STRUCTURE: described}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> State:
        """The same places with other tensors in them."""
        made = State.__new__(State)
        made.entries, made.tensors = self.entries, {**self.tensors, **tensors}
        return made

    def tree(self) -> dict[str, Node]:
        """Name of each direct child of the model -> its node."""
        roots: dict[str, Node] = {"params": Node(), "constants": Node()}
        for key, tensor in self.tensors.items():
            *path, name = key.split(".")
            if not path:
                continue
            node = roots[path[0]]
            for part in path[1:]:
                node = node.child(part)
            node.put(name, tensor)
        for root in roots.values():
            for place in root.modules():
                assert isinstance(place, Node)
                place.lock()
        return roots

    def check(self, program: Program, given: Mapping[str, Any]) -> None:
        """Raises FormatError for a tensor that does not mean what its name says; changes nothing."""
        check(self.tensors, given)
        for index, stage in enumerate(program.stages):
            check_tensors = operator(stage.op).check
            if check_tensors is not None:
                own = {e.name: given.get(k, e.value) for k, e in self.entries.items() if _is_tensor_of(e, index)}
                check_tensors(f"load_state_dict: {stage.name}", stage, own)

    def program(self, program: Program) -> Program:
        """The program with the numbers of this state in place of its own."""
        given = self.tensors
        tensors: list[dict[str, Tensor]] = [dict(stage.tensors) for stage in program.stages]
        attrs: list[dict[str, float]] = [{} for _ in program.stages]
        scales: dict[str, float] = {}
        points: dict[str, int] = {}
        constants = dict(program.constants)
        for key, entry in self.entries.items():
            value = given[key]
            if entry.kind == "tensor":
                tensors[entry.stage][entry.name] = value
            elif entry.kind == "attr":
                attrs[entry.stage][entry.name] = float(value)
            elif entry.kind == "scale":
                scales[entry.name] = float(value)
            elif entry.kind == "zero_point":
                points[entry.name] = int(value)
            else:
                constants[entry.name] = value
        quants: QuantMap = {name: (scale, points[name]) for name, scale in scales.items()}
        return program.with_params(tensors, quants, attrs, constants)


def _is_tensor_of(entry: Entry, index: int) -> bool:
    return entry.kind == "tensor" and entry.stage == index


def keys_of(own: Mapping[str, Any], given: Mapping[str, Any], strict: bool) -> tuple[list[str], list[str]]:
    """(missing, unexpected) names; raises FormatError for either where `strict`, with nothing changed."""
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    if strict and (missing or unexpected):
        said = [f"without {', '.join(missing[:4])}" + (" ..." if len(missing) > 4 else "")] if missing else []
        if unexpected:
            said.append(f"with {', '.join(map(str, unexpected[:4]))}" + (" ..." if len(unexpected) > 4 else ""))
        raise FormatError(
            "load_state_dict",
            f"a state dict {' and '.join(said)}",
            f"the {len(own)} names of this model's state_dict()",
            "Load the state of a model compiled from the same architecture, or pass strict=False.",
        )
    return missing, unexpected
