"""LiteRT (XNNPACK): litert-torch to convert, ai-edge-quantizer to quantize, the bare `invoke()` to time.

`invoke()` alone is timed, with inputs set beforehand: setting and reading tensors (about 1 us for one input and one output)
would come on top, as the interpreter takes no buffers of the caller. What the plain flow gets wrong is put right, so that
the peer is at its best: true minimum and maximum in calibration (not their moving average, which clips), ELU put together
again (see lite_rt_elu.py), height-1 convolutions and one gate product per layer (see decomposed.py), float depthwise
convolutions in the dynamic int8 form (XNNPACK has none there), and a float head of the TCN in the static one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.base import RECURRENT, SPARSE, Data, Job, LeftOut, Peer, Runner, array_runner, round_ns, split

PACKAGES = ("ai-edge-litert",)
TOOLS = ("litert-torch", "ai-edge-quantizer")

PEERS = tuple(
    Peer(f"litert_{variant}", f"LiteRT {title}", "lite_rt", variant)
    for variant, title in (
        ("fp32", "fp32"), ("int8", "static int8"), ("dyn_int8", "dynamic int8"), ("dyn_int4", "dynamic int4"),
    )
)  # fmt: skip

REVISION = 1
"""Counts up when the conversion changes, so that cached files are made anew."""

FLOAT_HEAD = ("tcn", "tcn_step")
BUILDS = 4


def convert(job: Job, variant: str) -> None:
    target = job.file(f"litert_{variant}.tflite")
    if variant == "fp32":
        _to_float(job, target)
        return
    source = job.file("litert_fp32.tflite")
    if not source.exists():
        _to_float(job, source)
    quantize = {"int8": _static_int8, "dyn_int8": _dynamic_int8, "dyn_int4": _dynamic_int4}[variant]
    quantize(job, source, target)


def _to_float(job: Job, target: Path) -> None:
    import litert_torch
    import torch

    from bench.peers.decomposed import decomposed, example
    from bench.peers.kits.lite_rt_elu import fuse_elu

    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that no exporter knows
    litert_torch.convert(decomposed(job.model), example(job.model)).export(str(target))
    fuse_elu(target)


def _save(quantizer: Any, target: Path, calibration: Any = None) -> None:
    result = quantizer.quantize(calibration, enable_progress_report=False)
    target.write_bytes(bytes(result.quantized_model))


def _static_int8(job: Job, source: Path, target: Path) -> None:
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    tool = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    operations = qtyping.TFLOperationName
    float_ones = [operations.INPUT, operations.OUTPUT]
    if job.model in FLOAT_HEAD:
        float_ones.append(operations.FULLY_CONNECTED)
    for operation in float_ones:
        tool.update_quantization_recipe(".*", operation, algorithm_key="no_quantize")
    seen = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    given = job.data().calibration
    data = {"serving_default": [_named(job, [column[call] for column in given]) for call in range(len(given[0]))]}
    seen.calibrate(data, tool._recipe_manager)
    _save(tool, target, seen.get_model_qsvs())


def _named(job: Job, given: list[np.ndarray]) -> dict[str, np.ndarray]:
    from bench.peers.decomposed import decomposed_states

    x, *states = given
    parts = split(states) if decomposed_states(job.model) else tuple(states)
    return {f"args_{i}": np.ascontiguousarray(a) for i, a in enumerate((x, *parts))}


def _dynamic_int8(job: Job, source: Path, target: Path) -> None:
    from ai_edge_quantizer import qtyping, quantizer, recipe

    tool = quantizer.Quantizer(str(source), recipe.dynamic_wi8_afp32())
    tool.update_quantization_recipe(".*", qtyping.TFLOperationName.DEPTHWISE_CONV_2D, algorithm_key="no_quantize")
    _save(tool, target)


def _dynamic_int4(job: Job, source: Path, target: Path) -> None:
    """Groups of 32 along K; int8 for layers whose K is no multiple of 32, which the quantizer refuses in groups."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    operations = qtyping.TFLOperationName
    marked = job.file("litert_marked.tflite")
    ragged, layers = _mark_ragged(source, marked)
    if job.model in SPARSE:
        _fill_groups(marked)
    if ragged == layers:
        marked.unlink()
        raise LeftOut("no layer has a K that is a multiple of 32, so there is no int4 in groups")
    tool = quantizer.Quantizer(str(marked), recipe.dynamic_wi4b32_afp32())
    for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D):
        tool.update_quantization_recipe(".*", operation, algorithm_key="no_quantize")
    if ragged:
        tool.add_dynamic_config("ragged", operations.FULLY_CONNECTED, num_bits=8)
    _save(tool, target)
    marked.unlink()


def _mark_ragged(source: Path, target: Path) -> tuple[int, int]:
    """How many layers have K % 32 != 0, and how many there are.

    Names the results of the former, as the quantizer's recipes pick operators by that name.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(source))
    marked = layers = 0
    for graph in model.subgraphs:
        kept = {int(t) for t in graph.outputs}
        for op in graph.operators:
            weight = graph.tensors[op.inputs[1]] if len(op.inputs) == 3 else None
            if weight is None or len(weight.shape) != 2:
                continue
            layers += 1
            if weight.shape[1] % 32:
                marked += 1
                if int(op.outputs[0]) not in kept:
                    graph.tensors[op.outputs[0]].name = f"ragged_{marked}".encode()
    flatbuffer_utils.write_model(model, str(target))
    return marked, layers


def _fill_groups(path: Path) -> None:
    """One weight of 1e-6 in each group of 32 that is all zero: XNNPACK refuses a scale of zero."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        for op in graph.operators:
            tensor = graph.tensors[op.inputs[1]] if len(op.inputs) == 3 else None
            if tensor is None or len(tensor.shape) != 2:
                continue
            weight = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).copy().reshape(-1, 32)
            weight[~weight.any(1), 0] = 1e-6
            model.buffers[tensor.buffer].data = np.frombuffer(weight.tobytes(), np.uint8)
    flatbuffer_utils.write_model(model, str(path))


def load(job: Job, variant: str) -> Runner:
    """The fastest of several interpreters of one file: where its memory falls can make one 1.4 times as slow as the next."""
    from ai_edge_litert.interpreter import Interpreter

    path = job.file(f"litert_{variant}.tflite")
    if not path.exists():
        raise LeftOut(f"{path.name} was not converted")
    data = job.data()
    found = [_runner(data, Interpreter(str(path), num_threads=1), job.model in RECURRENT) for _ in range(BUILDS)]
    for runner in found:
        runner.step(data.x[0], *(column[-1] for column in data.calibration[1:]))  # numbers to compute on, not zeros
    times = [min(round_ns(runner) for _ in range(5)) for runner in found]
    return found[times.index(min(times))]


def _runner(data: Data, interpreter: Any, recurrent: bool) -> Runner:
    interpreter.allocate_tensors()
    inputs, outputs = (in_order(interpreter, kind) for kind in ("inputs", "outputs"))
    buffers = [np.zeros(interpreter.tensor(i)().shape, np.float32) for i in inputs]

    def run() -> None:
        for index, buffer in zip(inputs, buffers):
            interpreter.set_tensor(index, buffer)
        interpreter.invoke()

    def read() -> tuple[np.ndarray, ...]:
        return tuple(interpreter.get_tensor(i) for i in outputs)

    states = len(data.states) if recurrent else 0
    return Runner(array_runner(buffers, run, read, states).step, interpreter.invoke, "invoke() alone")


def in_order(interpreter: Any, kind: str) -> list[int]:
    """Tensor indices in the order of the torch module's arguments or results: args_0, args_1, ... as the signature names them."""
    names = next(iter(interpreter.get_signature_list().values()))[kind]
    signature = interpreter.get_signature_runner()
    details = signature.get_input_details() if kind == "inputs" else signature.get_output_details()
    return [details[name]["index"] for name in sorted(names, key=lambda name: int(name.rsplit("_", 1)[1]))]
