"""`to_onnx`: a compiled model as a standard ONNX file, with its scales."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from rtaccel.convert.frontend.layout import View
from rtaccel.convert.onnx.load import package
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.core.stage import GraphIO
from rtaccel.deploy.onnx.registry import forms
from rtaccel.deploy.onnx.writer import IR_VERSION, ML, OPSET, Writer
from rtaccel.runtime.compiled import CompiledModel

_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
          "bfloat16": 16}  # fmt: skip


def to_onnx(fast: CompiledModel, path: Any = None) -> Any:
    """Writes a compiled model as ONNX (opset 21) and gives the `onnx.ModelProto`.

    fast: what `rt.compile` gave.
    path: of the file; None writes none.

    The file holds what the plan computes, stage by stage: int8 with static scales as QuantizeLinear and DequantizeLinear (QDQ)
    with the plan's own scales and zero points, biases as int32; weights of W8A16 and int4 behind a DequantizeLinear, int4
    with a scale per block; float32 as it is. So what is quantized here is quantized the same in ONNX Runtime and in the
    runtimes of other devices. Inputs have the names of the model's arguments, and the batch is open where the plan has it open.

    ONNX Runtime's results of an int8 chain are within one step of the last scale: it rounds at other places in float32. LSTM
    and GRU with quantized weights compute in float32 there, with states that are not rounded.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
        >>> fast = rt.compile(model, (torch.randn(1, 16),), scheme="w8a8", calibration=[torch.randn(64, 16)])
        >>> written = rt.to_onnx(fast)
        >>> [node.op_type for node in written.graph.node if "Linear" not in node.op_type]
        ['Gemm', 'Relu', 'Gemm']

    Raises UnsupportedProblem that names every stage without a form in ONNX and every call that falls back to PyTorch, FormatError
    for what is no compiled model or no path, and BackendUnavailable without the package onnx. No file is touched then.
    """
    onnx = package()
    if not isinstance(fast, CompiledModel):
        raise FormatError("to_onnx", type(fast).__name__, "what rt.compile gave", "Compile the model first.")
    if fast._options.plan_states is not None:
        raise UnsupportedProblem(
            "to_onnx", f"{fast._options.title}, which keeps its past inside", "a model without states of its own",
            "Export the compiled model of a window, or of one step with its states as inputs and outputs.",
        )  # fmt: skip
    target = None if path is None else whole_file.target_of("to_onnx", path)
    program = fast._program
    _refuse(program)
    model = _written(onnx, program, fast)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UnsupportedProblem(
            "to_onnx", f"a graph that onnx.checker refuses: {error}", "a valid one", "Please report this model."
        ) from error
    if target is not None:
        whole_file.write("to_onnx", target, model.SerializeToString())
    return model


def _refuse(program: Program) -> None:
    """All stages and calls without a form, at once."""
    known = forms()
    bad = [f"{s.name} (a PyTorch call)" for s in program.steps if isinstance(s, FallbackStep)]
    bad += [f"{stage.op} {stage.name!r}" for stage in program.stages if stage.op not in known]
    if bad:
        raise UnsupportedProblem(
            "to_onnx", ", ".join(dict.fromkeys(bad)), f"stages with a form in ONNX: {', '.join(sorted(known))}",
            "Export the original model by torch.onnx.export, or compile it without these parts.",
        )  # fmt: skip


def _written(onnx: Any, program: Program, fast: CompiledModel) -> Any:
    w = Writer(onnx)
    inputs: list[Any] = []
    env: dict[str, Any] = {}
    names = fast._argument_names if len(fast._argument_names) == len(program.inputs) else program.inputs
    for inner, name, argument in zip(program.inputs, names, program.arguments):
        if argument.dtype is None:
            continue
        sizes = ["batch" if n is None else n for n in argument.shape]
        kind = str(argument.dtype).removeprefix("torch.")
        env[inner] = w.name(name)
        inputs.append(onnx.helper.make_tensor_value_info(env[inner], _TYPES[kind], sizes))
    for inner, tensor in program.constants.items():
        env.setdefault(inner, tensor)
    ports: dict[str, GraphIO] = {}
    for step in program.steps:
        assert isinstance(step, SubgraphStep)
        _step(w, step, env)
        ports.update(zip((*step.reads, *step.writes), (*step.group.inputs, *step.group.outputs)))
    outputs = []
    named: list[tuple[str, str]] = []
    for i, out in enumerate(program.outputs):
        if not isinstance(out, str):
            raise UnsupportedProblem("to_onnx", f"output {i}, {type(out).__name__}", "tensors", "Return tensors alone.")
        name = w.name("output" if len(program.outputs) == 1 else f"output_{i}")
        made, element, sizes = _output(w, program, out, env, ports)
        named.append((made, name))
        outputs.append(onnx.helper.make_tensor_value_info(name, element, sizes))
    _name_results(onnx, w, named)
    graph = onnx.helper.make_graph(w.nodes, fast._options.title or "model", inputs, outputs, w.constants)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    opsets += [onnx.helper.make_opsetid(ML, 3)] if any(node.domain == ML for node in w.nodes) else []
    model = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="rtaccel")
    model.ir_version = IR_VERSION
    return model


def _name_results(onnx: Any, w: Writer, named: list[tuple[str, str]]) -> None:
    """Results by their names: of the node that makes each, where nothing else reads it, else as a copy."""
    read = {name for node in w.nodes for name in node.input}
    makers = {name: (node, i) for node in w.nodes for i, name in enumerate(node.output)}
    for made, name in named:
        if made in makers and made not in read:
            node, i = makers.pop(made)
            node.output[i] = name
            read.add(made)
        else:
            again = next((other for first, other in named if first == made and other != name), made)
            source = again if made not in makers and made in read and again != made else made
            w.nodes.append(onnx.helper.make_node("Identity", [source], [name], name=w.name("Identity")))


def _step(w: Writer, step: SubgraphStep, env: dict[str, Any]) -> None:
    group, known = step.group, forms()
    sizes: dict[int, str] = {}
    w.stage = None
    for name, port in zip(step.reads, group.inputs):
        given = env[name]
        given = w.constant(given, name) if isinstance(given, Tensor) else given
        if port.lead > 1 and port.lead not in sizes:
            sizes[port.lead] = w.node("Shape", given, end=port.lead)
        if port.value.dtype in ("int32", "bool"):
            pass  # what reads them casts
        front = [1] if port.lead == 0 else [0] if port.lead == 1 else [-1]
        same = port.lead == 1 and tuple(port.trailing) == port.value.shape
        w.put_stored(port.value, given if same else w.shaped(given, *front, *port.value.shape))
    for stage in group.stages:
        w.stage = stage
        known[stage.op](w, stage)
    w.stage = None
    for name, port in zip(step.writes, group.outputs):
        made = w.stored(port.value)
        if port.lead > 1:
            if port.lead not in sizes:
                w.refuse(f"gives {name} over {port.lead} dimensions of samples that no input has")
            shape = w.node("Concat", sizes[port.lead], w.constant(np.array(port.trailing, np.int64), "shape"), axis=0)
            made = w.node("Reshape", made, shape)
        elif port.lead == 0:
            made = w.shaped(made, *port.trailing)
        elif tuple(port.trailing) != port.value.shape:
            made = w.shaped(made, 0, *port.trailing)
        env[name] = made


def _output(
    w: Writer, program: Program, out: str, env: Mapping[str, Any], ports: Mapping[str, GraphIO]
) -> tuple[str, int, list[Any]]:
    """(name, type, sizes) of a result."""
    view = program.views.get(out)
    if view is not None and (out in program.casts or out not in env):
        base = env[view.base]
        made = w.constant(base, view.base) if isinstance(base, Tensor) else base
        made, sizes = _viewed(w, made, view, program.batched)
        kind = _TYPES["float32"]
        if view.base in ports:
            kind = _TYPES[ports[view.base].value.dtype]
        if out in program.casts:
            kind = _TYPES[str(program.casts[out]).removeprefix("torch.")]
            made = w.node("Cast", made, to=kind)
        return made, kind, sizes
    given = env[out]
    if isinstance(given, Tensor):
        return w.constant(given, out), _TYPES[str(given.dtype).removeprefix("torch.")], list(given.shape)
    if out in ports:
        port = ports[out]
        batch: list[Any] = list(_argument_batch(program)) if port.lead == 1 else [None] * port.lead
        return given, _TYPES[port.value.dtype], [*batch, *port.trailing]
    argument = program.arguments[program.inputs.index(out)]
    sizes = ["batch" if n is None else n for n in argument.shape]
    return given, _TYPES[str(argument.dtype).removeprefix("torch.")], sizes


def _argument_batch(program: Program) -> list[Any]:
    fixed = program.batch.lo if program.batch.fixed else None
    return [fixed if fixed is not None else "batch"]


def _viewed(w: Writer, x: str, view: View, batched: bool) -> tuple[str, list[Any]]:
    """A stored value seen in another way: its elements in their order, the samples where they belong."""
    shape = [prod(a.size for a in dim if not a.batch) for dim in view.dims]
    atoms = [a for dim in view.dims for a in dim if not a.batch]
    w.stage = None
    flat = w.node("Flatten", x, axis=1) if batched else w.shaped(x, 1, -1)
    index = np.array([view.offset])
    for atom in atoms:
        index = (index[:, None] + np.arange(atom.size)[None] * atom.stride).reshape(-1)
    picked = w.node("Gather", flat, w.constant(index.astype(np.int64), "elements"), axis=1)
    place = view.batch_dim
    if not batched:
        return w.shaped(picked, *(prod(a.size for a in dim) for dim in view.dims)), [
            prod(a.size for a in d) for d in view.dims
        ]
    if place is None:
        w.refuse("gives a result whose samples are joined with another dimension")
    assert place is not None
    rest = [n for d, n in enumerate(shape) if d != place]
    made = w.shaped(picked, 0, *rest)
    order = [*range(1, place + 1), 0, *range(place + 1, len(shape))]
    if place:
        made = w.node("Transpose", made, perm=order)
    return made, [("batch" if d == place else n) for d, n in enumerate(shape)]
