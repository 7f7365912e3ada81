"""`from_onnx`: an ONNX file as a plain torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtaccel.convert.onnx.builder import Builder
from rtaccel.convert.onnx.load import load, opset_of, package
from rtaccel.convert.onnx.table import entries, find
from rtaccel.convert.onnx.values import BROKEN, Computed, Known
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem

MAX_NAMED = 12
"""Problems that a message names; the rest is counted."""


def from_onnx(source: Any, fixed: Mapping[str, Any] | None = None) -> nn.Module:
    """An ONNX model as a torch module in eval mode, ready for `rt.compile`.

    source: a path, the bytes of a file, or an `onnx.ModelProto`; opset 9 to the newest.
    fixed: inputs that are always the same, name in the file -> number, array or tensor (any dtype and shape that the file takes).
        They are no arguments of the module, and what the file decides by them (`If`) is decided here.

    The module takes the file's inputs in its order, tensors of the dtypes and shapes that the file says, and gives its outputs:
    one tensor or a tuple. Its forward is a straight list of small functions, one for each node of the file; `print(module.code)`
    shows it. Weights are parameters and buffers under the file's names, with `_` for what torch does not allow.
    `module.meta["onnx"]` has the names as they were: "inputs", "outputs" and "weights" (name here -> name in the file).

    What depends on constants alone is computed once. Shapes are computed with the batch open, so that one module takes any
    number of samples where the file does.

    Operators that are quantized compute in float32 with whole numbers, in the steps of the file; weights are multiplied out.

    Example:
        >>> import io, torch, rtaccel as rt
        >>> from onnx import TensorProto, helper
        >>> value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", [value("x")], [value("y")])
        >>> model = rt.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
        >>> fast = rt.compile(model, (torch.randn(1, 4),))
        >>> fast(torch.tensor([[-1.0, 0.0, 1.0, 2.0]]))
        tensor([[0., 0., 1., 2.]])

    Raises BackendUnavailable without the package onnx, FormatError for what is no valid model or no input of it, and
    UnsupportedProblem that names every node without a form here.
    """
    onnx = package()
    model = load(source)
    try:
        return _module(onnx, model, fixed or {})
    except RtaccelError:
        raise
    except (
        Exception
    ) as error:  # onnx.checker looks at the structure, not at whether sizes, types and texts fit together
        where = str(error).strip().partition("\n")[0][:200]
        raise FormatError(
            "from_onnx", f"a model whose parts do not fit together: {type(error).__name__}: {where}",
            "a model that another runtime loads", "Check that the file is whole; if others take it, please report it.",
        ) from error  # fmt: skip


def _module(onnx: Any, model: Any, fixed: Mapping[str, Any]) -> nn.Module:
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    opsets.setdefault("", opset_of(model))
    model = _with_bodies(onnx, model, opsets)
    graph = model.graph
    build = Builder(onnx, opsets)
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in constants]
    given = _fixed(onnx, {entry.name: entry for entry in inputs}, fixed)
    names = []
    for entry in inputs:
        if entry.name in given:
            build.env[entry.name] = given[entry.name]
            continue
        if not entry.type.HasField("tensor_type"):
            build.problems.append(("input", entry.name, "is a sequence, map or optional; tensors are taken"))
            build.env[entry.name] = BROKEN
            continue
        names.append(entry.name)
        build.env[entry.name] = Computed(build.graph.placeholder(build.names.node(entry.name)))
    build.read(graph)
    results = [build.output(entry.name) for entry in graph.output]
    _raise(build.problems)
    made = build.module(_class_name(graph.name), results[0] if len(results) == 1 else tuple(results))
    used = set(made.state_dict())
    made.meta["onnx"] = {
        "inputs": tuple(names),
        "outputs": tuple(entry.name for entry in graph.output),
        "weights": {here: there for here, there in build.names.kept.items() if here in used},
        "opset": opsets[""],
    }
    return made.eval()


def _class_name(name: str) -> str:
    return "".join(c for c in name.title() if c.isalnum()).lstrip("0123456789") or "OnnxModel"


def _with_bodies(onnx: Any, model: Any, opsets: Mapping[str, int]) -> Any:
    """Operators that are not in the table, but that the standard defines by others, written out."""
    kinds = {(node.domain, node.op_type) for node in model.graph.node}
    missing = [
        kind for kind in sorted(kinds)
        if kind[0] == "" and kind[1] not in ("Constant", "If", "Loop", "Scan", "Shape", "Size")
        and find("", kind[1], opsets.get("", 1)) is None and _has_body(onnx, kind[1], opsets[""])
    ]  # fmt: skip
    if not missing:
        return model
    try:
        return onnx.inliner.inline_selected_functions(model, missing, exclude=False, inline_schema_functions=True)
    except RuntimeError:  # some bodies depend on types that it does not find: the nodes are named as missing then
        return model


def _has_body(onnx: Any, name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _fixed(onnx: Any, inputs: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Known]:
    made = {}
    for name, value in fixed.items():
        if name not in inputs:
            raise FormatError(
                "from_onnx", f"fixed[{name!r}]", f"an input of the file: {', '.join(inputs)}", "Name one."
            )
        entry = inputs[name].type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.elem_type)
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        rank = len(entry.shape.dim) if entry.HasField("shape") else array.ndim
        if array.dtype.kind not in "biuf" or array.ndim != rank:
            raise FormatError(
                "from_onnx", f"fixed[{name!r}] of {array.dtype} with {array.ndim} dimensions",
                f"{dtype} with {rank} dimensions", "Pass such an array.",
            )  # fmt: skip
        made[name] = Known(torch.from_numpy(np.array(array.astype(dtype))), name)
    return made


def _raise(problems: list[tuple[str, str, str]]) -> None:
    if not problems:
        return
    unique = list(dict.fromkeys(problems))
    named = "; ".join(f"{kind} (node {name!r}) {why}" for kind, name, why in unique[:MAX_NAMED])
    more = f"; and {len(unique) - MAX_NAMED} more" if len(unique) > MAX_NAMED else ""
    count = len({kind for _, kind in entries()})
    raise UnsupportedProblem(
        "from_onnx", f"{named}{more}", f"nodes that the table of {count} operators computes",
        "Export the model without them, or compute these parts outside; docs/reference/onnx-operators.md lists the table.",
    )  # fmt: skip
