"""An exported program as functional ATen calls: no call in place, no view that is written through.

`ExportedProgram.run_decompositions({})` does that, and keeps every composite call as it is. To keep them it registers about 1,500
operators with torch's dispatcher and takes them back, in each export: two thirds of what a small model takes to compile. Here
the same step of torch is given those in the graph alone. What a composite call that must be taken apart calls inside is then
taken apart too.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx

from rtaccel.convert.frontend.functional.edit import edit


def functionalize(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without mutation, the composite calls of its graph kept, as `run_decompositions({})` does it."""
    _take_names(program)
    if edit(program):
        return program
    found = _by_torch(program)
    _take_names(found)
    return found


def _by_torch(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    decompose = _step_of_torch()
    if decompose is None:
        return program.run_decompositions({})
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        found: torch.export.ExportedProgram = decompose(
            program, cia_to_decomp=_composite_calls(program), python_decomp_table={}, joint_loss_index=None,
            decompose_custom_triton_ops=False,
        )  # fmt: skip
    return found


def _take_names(program: torch.export.ExportedProgram) -> None:
    """An input named as a call, `cat`, has its name, and the call becomes `cat_1`. The graph does not know: a call that is made
    later would be `cat_1` too."""
    for graph in _graphs(program):
        for node in graph.nodes:
            graph._graph_namespace.create_name(node.name, None)


def _graphs(program: torch.export.ExportedProgram) -> list[fx.Graph]:
    return [m.graph for m in program.graph_module.modules() if isinstance(m, fx.GraphModule)]


def _step_of_torch() -> Any:
    """The part of `run_decompositions` behind its table; None where this version of torch has another one."""
    from torch._export import utils
    from torch.export import exported_program

    step = getattr(exported_program, "_decompose_exported_program", None)
    known = {"ep", "cia_to_decomp", "python_decomp_table", "joint_loss_index", "decompose_custom_triton_ops"}
    if step is None or set(inspect.signature(step).parameters) != known:
        return None
    if not hasattr(utils, "_is_preservable_cia_op") or not hasattr(utils, "_special_op_to_preserve_cia"):
        return None
    return step


def _composite_calls(program: torch.export.ExportedProgram) -> dict[Any, Any]:
    """The composite calls of the graph and of the graphs inside it, each with torch's mark that it is kept."""
    from torch._export import utils

    targets = {node.target for graph in _graphs(program) for node in graph.nodes if node.op == "call_function"}
    return {
        target: utils._special_op_to_preserve_cia
        for target in targets
        if isinstance(target, torch._ops.OpOverload) and utils._is_preservable_cia_op(target)
    }
