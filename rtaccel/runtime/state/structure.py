"""How each layer of a compiled model is computed, as a part of its state: by it a model of another scheme takes the state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.passes.program import Program
from rtaccel.core.errors import FormatError
from rtaccel.nn.check import is_freed

VERSION = 1


def describe(program: Program) -> dict[str, Any]:
    """version; stages: what each is and holds; layers: the decision for each layer with weights."""
    stages = [
        {
            "op": stage.op,
            "name": stage.name,
            "dtypes": [v.dtype for v in (*stage.inputs, *stage.outputs)],
            "static": [v.quant is not None for v in stage.outputs],
            "tensors": {name: [str(t.dtype), *t.shape] for name, t in stage.tensors.items()},
        }
        for stage in program.stages
    ]
    layers = {} if program.source is None else program.source.decisions()
    return {"version": VERSION, "stages": stages, "layers": layers}


def to_tensor(program: Program) -> Tensor:
    text = json.dumps(describe(program), separators=(",", ":")).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def read(value: Any) -> dict[str, Any]:
    """What `to_tensor` gave. Raises FormatError for anything else."""
    bad = FormatError(
        "load_state_dict",
        "a `structure` that is not this library's",
        "the bytes that state_dict() gave",
        "Save it again.",
    )
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.dim() != 1 or value.device.type == "meta":
        raise bad
    if value.layout != torch.strided or is_freed(value):
        raise bad
    try:
        found = json.loads(bytes(value.cpu().contiguous().numpy().tobytes()))
    except ValueError as error:
        raise bad from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), list):
        raise bad
    if found.get("version") != VERSION:
        raise FormatError(
            "load_state_dict", f"a state of version {found.get('version')!r}", f"version {VERSION}",
            "Save it with the same release of rtaccel.",
        )  # fmt: skip
    return found


def program_for(program: Program, given: Mapping[str, Any]) -> Program:
    """The program itself where the state has its structure, else the same model lowered as the state was.

    Raises FormatError, naming the first stage that differs, where the state is of another model.
    """
    if "structure" not in given:
        return program
    wanted = read(given["structure"])
    if wanted["stages"] == describe(program)["stages"]:
        return program
    other = None if program.source is None else program.source.relowered(wanted.get("layers"))
    if other is not None and describe(other)["stages"] == wanted["stages"]:
        return other
    shown = describe(other or program)["stages"]
    for mine, theirs in zip(shown, wanted["stages"]):
        if mine != theirs:
            break
    else:
        mine, theirs = {"stages": len(shown)}, {"stages": len(wanted["stages"])}
    differing = [key for key in mine if not isinstance(theirs, dict) or mine[key] != theirs.get(key)]
    raise FormatError(
        "load_state_dict",
        f"a state whose {theirs.get('name', 'list of stages') if isinstance(theirs, dict) else 'stage'} has "
        f"{ {k: theirs.get(k) for k in differing} if isinstance(theirs, dict) else theirs }",
        f"{ {k: mine[k] for k in differing} }",
        "Load the state of a model compiled from the same architecture, with the same zeros in its weights.",
    )
