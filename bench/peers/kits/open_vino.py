"""OpenVINO: conversion from torch, NNCF for int8 and 4-bit weights, latency hint, one stream, one thread, shared tensors.

`fp32` forbids reduced precision, `bf16` asks for it (OpenVINO's own default where the CPU has AMX); of the integer forms the
faster of the two is taken, which differs by network. `int8` quantizes weights and activations, `w8` and `w4` weights only
(activations as it likes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.base import RECURRENT, Job, LeftOut, Peer, Runner, array_runner, round_ns, split

PACKAGES = ("openvino",)
TOOLS = ("nncf",)
REVISION = 1
PEERS = (
    Peer("ov_fp32", "OpenVINO fp32", "open_vino", "fp32"),
    Peer("ov_fp32_cells", "OpenVINO fp32, cells", "open_vino", "fp32_cells", RECURRENT),
    Peer("ov_bf16", "OpenVINO bf16", "open_vino", "bf16"),
    Peer("ov_int8", "OpenVINO int8 (NNCF)", "open_vino", "int8"),
    Peer("ov_w8", "OpenVINO int8 weights", "open_vino", "w8"),
    Peer("ov_w4", "OpenVINO int4 weights", "open_vino", "w4"),
)


def uses_cells(model: str, variant: str) -> bool:
    return model in RECURRENT and variant not in ("fp32", "bf16")


def convert(job: Job, variant: str) -> None:
    import openvino as ov
    import torch

    from bench.peers.decomposed import decomposed, example
    from bench.peers.models import BY_NAME, Flat

    torch.backends.mha.set_fastpath_enabled(False)
    cells = uses_cells(job.model, variant)
    model = BY_NAME[job.model]
    module = decomposed(job.model) if cells else Flat(model, model.module()).eval()
    given = example(job.model, whole=not cells)
    found = ov.convert_model(module, example_input=given, input=[list(t.shape) for t in given])
    if variant == "int8":
        found = _int8(job, found, cells)
    elif variant in ("w8", "w4"):
        found = _weights(found, variant)
    ov.save_model(found, str(job.file(f"ov_{variant}.xml")), compress_to_fp16=False)


def _int8(job: Job, model: Any, cells: bool) -> Any:
    import nncf

    columns = job.data().calibration
    calls = []
    for call in range(len(columns[0])):
        x, *states = (np.ascontiguousarray(column[call]) for column in columns)
        calls.append((x, *(split(states) if cells else states)))
    transformer = nncf.ModelType.TRANSFORMER if job.model == "encoder" else None
    return nncf.quantize(model, nncf.Dataset(calls), subset_size=len(calls), model_type=transformer)


def _weights(model: Any, variant: str) -> Any:
    import nncf

    if variant == "w8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    found = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_SYM, ratio=1.0, group_size=32, all_layers=True,
        advanced_parameters=nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST),
    )  # fmt: skip
    if not any(op.get_output_element_type(0).get_type_name() in ("i4", "u4") for op in found.get_ops()):
        raise LeftOut("NNCF compressed nothing to 4 bits: no width that groups of 32 or less divide")
    return found


def load(job: Job, variant: str) -> Runner:
    if variant in ("int8", "w8", "w4"):
        found = [_loaded(job, variant, hint) for hint in ("f32", "bf16")]
        times = [min(round_ns(runner) for _ in range(5)) for runner in found]
        return found[times.index(min(times))]
    return _loaded(job, variant, "bf16" if variant == "bf16" else "f32")


def _loaded(job: Job, variant: str, hint: str) -> Runner:
    data = job.data()
    states = len(data.states) if uses_cells(job.model, variant) else 0
    runner = request_runner(job.file(f"ov_{variant}.xml"), hint, states)
    runner.step(data.x[0], *(column[-1] for column in data.calibration[1:]))  # numbers to compute on, not zeros
    return runner


def request_runner(path: Path, hint: str, decomposed_states: int = 0) -> Runner:
    """A request of one thread on tensors that are shared with numpy. Shapes in the file must be fixed."""
    import openvino as ov

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint,
    }  # fmt: skip
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    buffers = [np.zeros(tuple(port.shape), port.element_type.to_dtype()) for port in compiled.inputs]
    results = [np.zeros(tuple(port.shape), port.element_type.to_dtype()) for port in compiled.outputs]
    for port, buffer in zip((*compiled.inputs, *compiled.outputs), (*buffers, *results)):
        request.set_tensor(port, ov.Tensor(buffer, shared_memory=True))
    return array_runner(buffers, _bare(request), lambda: tuple(results), decomposed_states, f"shared tensors, {hint}")


def _bare(request: Any) -> Any:
    """The binding's own synchronous call: start and wait would cross threads (6 us), the wrapper would build a dictionary."""
    from openvino._pyopenvino import InferRequest

    infer, nothing = InferRequest.infer, {}  # type: ignore[var-annotated]

    def run() -> None:
        infer(request, nothing, share_outputs=True, decode_strings=False)

    return run
