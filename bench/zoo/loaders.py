"""How each runtime converts, loads and calls a network of the zoo, on the kits of bench/peers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.peers.base import Arrays, LeftOut, Peer, Runner
from bench.zoo.case import Case, output_arrays, tensors

PEERS = (
    Peer("torch_eager", "torch eager", "torch_eager", "eager"),
    Peer("torch_compile", "torch.compile", "torch_compiled", "default", slow=True),
    Peer("ort_fp32", "ONNX Runtime fp32", "onnx_runtime", "fp32"),
    Peer("ort_static_int8", "ONNX Runtime static int8", "onnx_runtime", "static_int8"),
    Peer("ort_dyn_int8", "ONNX Runtime dynamic int8", "onnx_runtime", "dyn_int8"),
    Peer("ov_fp32", "OpenVINO fp32", "open_vino", "fp32"),
    Peer("ov_int8", "OpenVINO int8 (NNCF)", "open_vino", "int8"),
    Peer("litert_fp32", "LiteRT fp32", "lite_rt", "fp32"),
    Peer("litert_dyn_int8", "LiteRT dynamic int8", "lite_rt", "dyn_int8"),
    Peer("rt_float32", "rtaccel float32", "ours", "float32", ours=True),
    Peer("rt_w8a8", "rtaccel W8A8", "ours", "w8a8", ours=True),
)
BY_NAME = {peer.name: peer for peer in PEERS}


def load(case: Case, peer: Peer) -> Runner:
    """A runner of this network. Raises LeftOut, and whatever the runtime or its converter raises."""
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that no exporter knows
    return LOADERS[peer.kit](case, peer.variant)


def eager(case: Case, variant: str) -> Runner:
    model, _ = case.entry.build()
    return _torch_runner(case, model)


def compiled(case: Case, variant: str) -> Runner:
    """Inductor with frozen weights; not autotuned, which takes minutes for each network."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(case.folder / "inductor"))
    import torch
    from torch._inductor import config

    config.freezing = True
    config.compile_threads = 1
    model, _ = case.entry.build()
    return _torch_runner(case, torch.compile(model, dynamic=False))


def _torch_runner(case: Case, model: Callable[..., Any]) -> Runner:
    given = case.example()

    def step(*arrays: np.ndarray) -> Arrays:
        return output_arrays(model(*tensors(arrays)))

    return Runner(step, lambda: model(*given), "fresh tensors out")


def onnx_runtime(case: Case, variant: str) -> Runner:
    from bench.peers.kits.onnx_runtime import session_runner

    source = case.file("ort_fp32.onnx")
    if not source.exists():
        _export(case, source)
    if variant == "fp32":
        return session_runner(source)
    target = case.file(f"ort_{variant}.onnx")
    (_static if variant == "static_int8" else _dynamic)(case, source, target)
    return session_runner(target)


def _export(case: Case, target: Any) -> None:
    import torch

    given = case.example()
    names = [f"in{i}" for i in range(len(given))]
    torch.distributions.Distribution.set_default_validate_args(False)  # its checks are what the exporter refuses
    try:
        torch.onnx.export(
            case.module(), given, target, dynamo=True, verbose=False, external_data=False, input_names=names
        )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError):
        target.unlink(missing_ok=True)
        torch.onnx.export(case.module(), given, target, dynamo=False, input_names=names, opset_version=18)


def _dynamic(case: Case, source: Any, target: Any) -> None:
    from bench.peers.kits.onnx_runtime import _dynamic as quantize

    quantize(source, target)


def _static(case: Case, source: Any, target: Any) -> None:
    from onnxruntime import quantization as q

    from bench.peers.kits.onnx_runtime import _prepared

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Arrays] = iter(case.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(self.left, None)
            return None if given is None else {f"in{i}": a for i, a in enumerate(given)}

    prepared = _prepared(source)
    q.quantize_static(
        str(prepared), str(target), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
        activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
    )  # fmt: skip


def open_vino(case: Case, variant: str) -> Runner:
    import openvino as ov

    from bench.peers.kits.open_vino import request_runner

    given = case.example()
    found = ov.convert_model(case.module(), example_input=given, input=[list(t.shape) for t in given])
    if variant == "int8":
        import nncf

        found = nncf.quantize(found, nncf.Dataset(list(case.calibration)), subset_size=len(case.calibration))
    target = case.file(f"ov_{variant}.xml")
    ov.save_model(found, str(target), compress_to_fp16=False)
    runner = request_runner(target, "f32")
    runner.step(*case.calls[0])  # numbers to compute on, not zeros
    return runner


def lite_rt(case: Case, variant: str) -> Runner:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    from bench.peers.kits.lite_rt import in_order

    source = case.file("litert_fp32.tflite")
    if not source.exists():
        litert_torch.convert(case.module(), case.example()).export(str(source))
    if variant == "dyn_int8":
        from ai_edge_quantizer import quantizer, recipe

        result = quantizer.Quantizer(str(source), recipe.dynamic_wi8_afp32()).quantize(None)
        source = case.file("litert_dyn_int8.tflite")
        source.write_bytes(bytes(result.quantized_model))
    interpreter = Interpreter(str(source), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = (in_order(interpreter, kind) for kind in ("inputs", "outputs"))

    def step(*arrays: np.ndarray) -> Arrays:
        for index, array in zip(inputs, arrays):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return tuple(interpreter.get_tensor(i) for i in outputs)

    step(*case.calls[0])
    return Runner(step, interpreter.invoke, "invoke() alone")


def ours(case: Case, variant: str) -> Runner:
    import torch
    from torch.utils import _pytree as pytree

    import rtaccel as rt
    from bench.peers.kits.ours import _check_scheme, _note
    from rtaccel.core.errors import RtaccelError

    model, _ = case.entry.build()
    given = case.example()
    seen = [tensors(arrays) for arrays in case.calibration]
    scheme: Any = rt.W8A8(activation="static") if variant == "w8a8" else "float32"
    try:
        fast = rt.compile(model, given, scheme, calibration=seen if variant == "w8a8" else None)
    except RtaccelError as error:
        raise LeftOut(str(error)) from error
    _check_scheme(fast)
    out = pytree.tree_map_only(torch.Tensor, torch.empty_like, fast(*given))
    call = fast.bind(*given, out=out)

    def step(*arrays: np.ndarray) -> Arrays:
        for tensor, array in zip(given, arrays):
            tensor.copy_(torch.from_numpy(array))
        call()
        return output_arrays(out)

    forms = {"run": lambda: fast.run(*given, out=out), "call": lambda: fast(*given)}
    return Runner(step, call, _note(fast), forms)


LOADERS: dict[str, Callable[[Case, str], Runner]] = {
    "torch_eager": eager, "torch_compiled": compiled, "onnx_runtime": onnx_runtime, "open_vino": open_vino,
    "lite_rt": lite_rt, "ours": ours,
}  # fmt: skip
"""By kit of bench/peers, whose packages and versions are those of the row."""
