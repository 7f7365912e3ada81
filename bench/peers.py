"""rtaccel beside its peers on the same networks, in one interleaved run.

    python bench/peers.py [--rounds 40] [--networks ad01 policy jet] [--out bench/results/NAME.json]

Each peer takes its fastest documented path: ONNX Runtime its IOBinding with preallocated buffers, LiteRT its bare
`invoke()` with the input set beforehand (setting and reading tensors would add about 1 us), torch eager under no_grad,
rtaccel a bound call; `run` and `call` show its other two forms. One thread each, pinned to one core. A peer that is not
installed is left out and said so. error: rms of the difference to torch float32 over rms of torch's output, over the
inputs used. ad01 takes trained weights and real inputs where the test data is there, random ones where not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.measure.environment import environment
from rtaccel.measure.interleave import interleave

sys.path.insert(0, str(Path(__file__).parent))
import networks

Call = Callable[[], object]


@dataclass(frozen=True)
class Runner:
    """call: one inference. read: its output for an input, for the error. exact: computes in float32."""

    name: str
    call: Call
    read: Callable[[Tensor], Tensor]
    exact: bool


def torch_eager(model: nn.Module, x: Tensor) -> Runner:
    return Runner("torch eager", lambda: model(x), model, True)


def rtaccel_runners(model: nn.Module, x: Tensor, calibration: Tensor) -> list[Runner]:
    runners = []
    for name, scheme in (("W8A8", rt.W8A8("static")), ("W8A8 dynamic", rt.W8A8("dynamic")), ("float32", rt.Float32())):
        fast = rt.compile(model, (x,), scheme, calibration=[calibration])
        out = torch.empty_like(fast(x))
        exact = name == "float32"
        runners.append(Runner(f"rtaccel {name}", fast.bind(x, out=out), fast, exact))
        if name == "W8A8":
            runners.append(Runner("rtaccel W8A8, fast.run", _run(fast, x, out), fast, exact))
            runners.append(Runner("rtaccel W8A8, fast(x)", _call(fast, x), fast, exact))
    return runners


def _run(fast: Any, x: Tensor, out: Tensor) -> Call:
    return lambda: fast.run(x, out=out)


def _call(fast: Any, x: Tensor) -> Call:
    return lambda: fast(x)


def onnxruntime_fp32(model: nn.Module, x: Tensor) -> Runner | str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name_in, name_out = session.get_inputs()[0].name, session.get_outputs()[0].name
    given, out = x.clone(), torch.empty_like(model(x))
    binding = session.io_binding()
    binding.bind_input(name_in, "cpu", 0, "float32", list(given.shape), given.data_ptr())
    binding.bind_output(name_out, "cpu", 0, "float32", list(out.shape), out.data_ptr())

    def read(rows: Tensor) -> Tensor:
        results = []
        for row in rows:
            given.copy_(row[None])
            session.run_with_iobinding(binding)
            results.append(out.clone())
        return torch.cat(results)

    return Runner("ONNX Runtime fp32", lambda: session.run_with_iobinding(binding), read, True)


def litert(folder: Path | None, file: str, x: Tensor) -> Runner | str:
    if folder is None:
        return f"the test data with {file} is not there"
    if importlib.util.find_spec("ai_edge_litert") is None:
        return "ai-edge-litert is not installed"
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / file), num_threads=1)
    interpreter.allocate_tensors()
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = given["quantization"], result["quantization"]
    int8 = scale != 0

    def feed(row: Tensor) -> None:
        values = torch.clamp(torch.round(row / scale) + zero, -128, 127).to(torch.int8) if int8 else row
        interpreter.set_tensor(given["index"], values.numpy())

    def read(rows: Tensor) -> Tensor:
        results = []
        for row in rows:
            feed(row[None])
            interpreter.invoke()
            y = torch.from_numpy(interpreter.get_tensor(result["index"]).copy()).float()
            results.append((y - out_zero) * out_scale if int8 else y)
        return torch.cat(results)

    feed(x)
    return Runner(f"LiteRT {'int8' if int8 else 'fp32'}", interpreter.invoke, read, not int8)


def runners_for(network: str) -> tuple[list[Runner], list[str], Tensor, nn.Module]:
    folder = networks.ad01_folder() if network == "ad01" else None
    if folder is not None:
        model, inputs = networks.ad01(folder), networks.ad01_windows(folder)
    else:
        make = {"ad01": networks.autoencoder, "policy": networks.policy, "jet": networks.jet}[network]
        model = make()
        inputs = torch.randn(196, model[0].in_features)
    x = inputs[:1].clone()
    found: list[Runner | str] = [torch_eager(model, x), onnxruntime_fp32(model, x)]
    if network == "ad01":
        found += [litert(folder, "ad01_fp32.tflite", x), litert(folder, "ad01_int8.tflite", x)]
    found += rtaccel_runners(model, x, inputs)
    return [r for r in found if isinstance(r, Runner)], [r for r in found if isinstance(r, str)], inputs, model


def compare(network: str, rounds: int) -> dict[str, Any]:
    runners, missing, inputs, model = runners_for(network)
    want = model(inputs)
    rows = {}
    for runner in runners:
        error = (runner.read(inputs) - want).square().mean().sqrt() / want.square().mean().sqrt()
        rows[runner.name] = {"error": float(error), "exact": runner.exact}
    measured = interleave({r.name: r.call for r in runners}, rounds=rounds, calls_per_round=300)
    for name, row in rows.items():
        samples = measured.samples_us[name].ravel()
        samples.sort()
        row["p50_us"] = measured.median_us(name)
        row["best_us"] = measured.best_round_us(name)
        row["p99_us"] = float(samples[int(0.99 * len(samples))])
        row["p999_us"] = float(samples[int(0.999 * len(samples))])
        row["n"] = len(samples)
        for ours in ("rtaccel W8A8", "rtaccel float32"):
            ratio = measured.ratio(name, ours)
            row[f"times_{ours.split()[-1]}"] = [ratio.value, ratio.low, ratio.high]
    return {"rows": rows, "missing": missing, "timer_ns": measured.timer_ns}


def table(network: str, result: dict[str, Any]) -> str:
    lines = [
        f"### {network}",
        "",
        "| | p50 us | p99 us | p99.9 us | best round us | error | times rtaccel W8A8 | times rtaccel float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(result["rows"].items(), key=lambda item: -item[1]["p50_us"]):
        cells = [f"{row[key]:.3g}" for key in ("p50_us", "p99_us", "p999_us", "best_us")]
        ratios = ["{:.2f} ({:.2f}-{:.2f})".format(*row[key]) for key in ("times_W8A8", "times_float32")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['error']:.1e} | {' | '.join(ratios)} |")
    lines += ["", *(f"Left out: {text}." for text in result["missing"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--networks", nargs="+", default=["ad01", "policy", "jet"], choices=["ad01", "policy", "jet"])
    parser.add_argument("--core", type=int, default=None, help="core to pin to; the last one where not given")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if options.core is None else options.core})
    report: dict[str, Any] = {"environment": environment(), "command": "python " + " ".join(sys.argv), "networks": {}}
    print(f"{report['environment']['cpu']}, {' '.join(report['environment']['isa'])}\n")
    for network in options.networks:
        result = compare(network, options.rounds)
        report["networks"][network] = result
        print(table(network, result) + "\n", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
