"""litert-torch writes ELU as EXP, SUB, GREATER and SELECT; this puts the runtime's own ELU operator back.

Without it the network falls into several delegate parts, and LiteRT would look a fifth slower than it can be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def fuse_elu(path: Path) -> int:
    """Rewrites the file; gives how many ELUs were put together."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    fused = sum(_fuse(model, graph) for graph in model.subgraphs)
    if fused:
        _drop_tensors(model)
        flatbuffer_utils.write_model(model, str(path))
    return fused


def _fuse(model: Any, graph: Any) -> int:
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}

    def kind(op: Any) -> str:
        code = model.operatorCodes[op.opcodeIndex]
        return names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    made_by = {tensor: op for op in graph.operators for tensor in op.outputs}
    fused = 0
    for op in list(graph.operators):
        if kind(op) not in ("SELECT", "SELECT_V2"):
            continue
        source = _elu_source(kind, made_by, op)
        if source is None:
            continue
        op.opcodeIndex = _code(model, schema)
        op.inputs, op.builtinOptions = [source], None
        op.builtinOptionsType = schema.BuiltinOptions.NONE
        fused += 1
    _drop_unused(graph)
    return fused


def _elu_source(kind: Any, made_by: dict[int, Any], select: Any) -> int | None:
    """The x of select(x > 0, x, exp(.) - 1), where that is what it is."""
    condition, positive, negative = (int(t) for t in select.inputs)
    compare, below = made_by.get(condition), made_by.get(negative)
    if compare is None or below is None or kind(compare) not in ("GREATER", "GREATER_EQUAL"):
        return None
    if int(compare.inputs[0]) != positive:
        return None
    seen = set()
    while kind(below) in ("SUB", "ADD", "MUL", "EXP", "EXPM1", "MINIMUM"):
        seen.add(kind(below))
        if int(below.inputs[0]) not in made_by:
            return None
        if int(below.inputs[0]) == positive:
            return positive if "EXP" in seen else None
        below = made_by[int(below.inputs[0])]
    return None


def _code(model: Any, schema: Any) -> int:
    wanted = schema.BuiltinOperator.ELU
    for i, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted:
            return i
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = wanted
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _drop_unused(graph: Any) -> None:
    while True:
        used = {int(t) for op in graph.operators for t in op.inputs} | {int(t) for t in graph.outputs}
        kept = [op for op in graph.operators if any(int(t) in used for t in op.outputs)]
        if len(kept) == len(graph.operators):
            return
        graph.operators = kept


def _drop_tensors(model: Any) -> None:
    """Tensors that no operator touches: the quantizer's calibration would read their missing values."""
    for number, graph in enumerate(model.subgraphs):
        ends = [*graph.inputs, *graph.outputs]
        used = sorted(
            {int(t) for op in graph.operators for t in (*op.inputs, *op.outputs) if t >= 0} | {int(t) for t in ends}
        )
        new = {old: i for i, old in enumerate(used)} | {-1: -1}
        graph.tensors = [graph.tensors[old] for old in used]
        for part in (*graph.operators, graph):
            part.inputs, part.outputs = ([new[int(t)] for t in ts] for ts in (part.inputs, part.outputs))
        for signature in model.signatureDefs or ():
            if signature.subgraphIndex == number:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = new[int(entry.tensorIndex)]
