"""ONNX Runtime: torch's exporter, its own quantizers, IOBinding on buffers that lie still.

Recurrent networks go in twice, as its own LSTM or GRU operator and decomposed (`cells`), because which is faster depends
on the width and the precision. Its dynamic quantizer knows the LSTM operator; the static and 4-bit ones only products.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.base import RECURRENT, Job, LeftOut, Peer, Runner, array_runner

PACKAGES = ("onnxruntime",)
TOOLS = ("onnx", "onnxscript")
REVISION = 1
PEERS = (
    Peer("ort_fp32", "ONNX Runtime fp32", "onnx_runtime", "fp32"),
    Peer("ort_fp32_cells", "ONNX Runtime fp32, cells", "onnx_runtime", "fp32_cells", RECURRENT),
    Peer("ort_dyn_int8", "ONNX Runtime dynamic int8", "onnx_runtime", "dyn_int8"),
    Peer("ort_dyn_int8_cells", "ONNX Runtime dynamic int8, cells", "onnx_runtime", "dyn_int8_cells", RECURRENT),
    Peer("ort_static_int8", "ONNX Runtime static int8", "onnx_runtime", "static_int8"),
    Peer("ort_w4", "ONNX Runtime int4 (MatMulNBits)", "onnx_runtime", "w4"),
)


def uses_cells(model: str, variant: str) -> bool:
    return model in RECURRENT and variant in ("fp32_cells", "dyn_int8_cells", "static_int8", "w4")


def convert(job: Job, variant: str) -> None:
    cells = uses_cells(job.model, variant)
    source = job.file("ort_fp32_cells.onnx" if cells else "ort_fp32.onnx")
    if not source.exists():
        export(job, source, cells)
    target = job.file(f"ort_{variant}.onnx")
    if variant.startswith("dyn_int8"):
        _dynamic(source, target)
    elif variant == "static_int8":
        _static(job, source, target)
    elif variant == "w4":
        _four_bits(source, target)


def export(job: Job, target: Path, cells: bool) -> None:
    import torch

    from bench.peers.decomposed import decomposed, example
    from bench.peers.models import BY_NAME, Flat

    torch.backends.mha.set_fastpath_enabled(False)
    model = BY_NAME[job.model]
    module = decomposed(job.model) if cells else Flat(model, model.module())
    given = example(job.model, whole=not cells)
    names = [f"in{i}" for i in range(len(given))]
    torch.onnx.export(module.eval(), given, target, dynamo=True, verbose=False, external_data=False, input_names=names)


def _prepared(source: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = source.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    return target


def _dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = _prepared(source)
    quantize_dynamic(str(prepared), str(target), per_channel=True, weight_type=QuantType.QInt8)
    prepared.unlink()


def _static(job: Job, source: Path, target: Path) -> None:
    from onnxruntime import quantization as q

    from bench.peers.base import split
    from bench.peers.decomposed import decomposed_states

    columns = job.data().calibration
    layered = bool(decomposed_states(job.model))

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for call in range(len(columns[0])):
            x, *states = (column[call] for column in columns)
            parts = split(states) if layered else tuple(states)
            yield {f"in{i}": np.ascontiguousarray(a) for i, a in enumerate((x, *parts))}

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = feeds()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    prepared = _prepared(source)
    q.quantize_static(
        str(prepared), str(target), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip
    prepared.unlink()


def _four_bits(source: Path, target: Path) -> None:
    """Groups of 32, int8 arithmetic (accuracy level 4). The quantizer takes MatMul only, so Gemm is written as one first."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = _without_gemm(onnx.load(str(source)))
    tool = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=4)
    tool.process()
    if not any(node.op_type == "MatMulNBits" for node in tool.model.model.graph.node):
        raise LeftOut("no matrix product with constant weights for MatMulNBits to replace")
    tool.model.save_model_to_file(str(target), False)


def _without_gemm(model: Any) -> Any:
    from onnx import helper, numpy_helper

    constants = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in constants:
            nodes.append(node)
            continue
        flags = {a.name: a.i for a in node.attribute}
        weight = numpy_helper.to_array(constants[node.input[1]])
        name = f"{node.input[1]}_as_matmul"
        turned = np.ascontiguousarray(weight.T if flags.get("transB") else weight)
        model.graph.initializer.append(numpy_helper.from_array(turned, name))
        biased = len(node.input) > 2
        between = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [between], f"{node.name}_matmul"))
        if biased:
            nodes.append(helper.make_node("Add", [between, node.input[2]], list(node.output), f"{node.name}_add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def load(job: Job, variant: str) -> Runner:
    states = len(job.data().states) if uses_cells(job.model, variant) else 0
    return session_runner(job.file(f"ort_{variant}.onnx"), states)


def session_runner(path: Path, decomposed_states: int = 0) -> Runner:
    """A session of one thread, called by IOBinding on buffers of its own. Shapes in the file must be fixed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    buffers = [_buffer(i) for i in session.get_inputs()]
    for entry, buffer in zip(session.get_inputs(), buffers):
        binding.bind_input(entry.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
    results = [_buffer(o) for o in session.get_outputs()]
    for entry, buffer in zip(session.get_outputs(), results):
        binding.bind_output(entry.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)

    def run(session: Any = session, binding: Any = binding) -> None:
        session.run_with_iobinding(binding)

    inner = session._sess.run_with_iobinding  # the same without the Python wrapper around it
    given = binding._iobinding
    step = array_runner(buffers, run, lambda: tuple(results), decomposed_states).step
    return Runner(step, lambda: inner(given, None), "IOBinding")


def _buffer(entry: Any) -> np.ndarray:
    """Memory for an input or output, by the type that the session names: tensor(float), tensor(int64), ..."""
    named = entry.type.removeprefix("tensor(").removesuffix(")")
    return np.zeros(entry.shape, {"float": "float32", "double": "float64"}.get(named, named))
