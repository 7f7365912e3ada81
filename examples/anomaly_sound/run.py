"""Anomalies in the sound of a machine: samples in, score out, spectrum and network in one native plan."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared import data
from examples._shared.outcome import Limit, Missing, Outcome, main
from examples._shared.timing import p99_us
from examples.anomaly_sound import networks, peers
from examples.anomaly_sound.networks import BANDS, HOP, RATE, STACK, WINDOW, LogMel, Score
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

FILES = ("ad01_weights.npz",)
SOURCE = (
    "https://github.com/mlcommons/tiny has it under benchmark/training/anomaly_detection; take what README.md names"
)
CLIP = "normal_id_01_00000000_logmel_200x128_f32.bin"
PUBLISHED, PUBLISHED_INT8 = 9.4913, 10.26
INT8 = {"stack": rt.Float32(), "mean": rt.Float32(), "*": rt.W8A8("static")}
"""The frames and the error stay float32."""


def streams(model: Score, frames: Tensor, audio: Tensor) -> dict[str, tuple[rt.StreamModel, rt.StreamModel]]:
    """By scheme: from log-mel frames to the score, and from samples to the score."""
    samples = audio.unfold(0, WINDOW, HOP)
    windows, raw = [frames.T[None, :, :].contiguous()], [samples[None].contiguous()]
    found = {}
    for name, scheme in (("float32", "float32"), ("int8", INT8)):
        kept = name == "int8"
        found[name] = (
            rt.stream(model, frames[:1], scheme, calibration=windows if kept else None),
            rt.stream(model, samples[:1], scheme, calibration=raw if kept else None, front=LogMel().eval()),
        )
    return found


def scores(live: rt.StreamModel, rows: Tensor) -> NDArray[np.float32]:
    """Of every time step from the fifth on."""
    live.reset()
    x = torch.empty(1, rows.shape[1])
    found = [float(live.step(x.copy_(row))) for row in rows]
    return np.array(found[STACK - 1 :], np.float32)


def work(args: argparse.Namespace) -> Outcome:
    folder = data.folder(args.data, "mlperf_tiny_ad01", FILES, SOURCE)
    if not (folder / CLIP).exists():
        raise Missing(f"no {CLIP} in {folder}: {SOURCE}.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return on_gpu(folder) if args.device == "cuda" else judged(folder, args.quick)
    finally:
        torch.set_num_threads(threads)


def faulty(audio: Tensor) -> Tensor:
    """The same machine with a bearing that knocks: 5 ms of a resonance at 3 kHz, 12 times a second, in the second half."""
    n = torch.arange(len(audio))
    since = n % (RATE // 12)
    knock = torch.sin(2 * torch.pi * 3000 * since / RATE) * torch.exp(-since / (0.005 * RATE))
    return audio + knock * (n > len(audio) // 2) * 2 * audio.square().mean().sqrt()


def judged(folder: Path, quick: bool) -> Outcome:
    model, frames = networks.score(folder / FILES[0]), networks.published_frames(folder / CLIP)
    audio = networks.rebuilt_audio(frames, 200 if quick else 400)
    samples = audio.unfold(0, WINDOW, HOP)
    live = streams(model, frames, audio)
    found = {name: (scores(a, frames), scores(b, samples)) for name, (a, b) in live.items()}
    with torch.no_grad():
        near = LogMel()(samples)
        own = float(np.mean([float(model(near.T[None, :, i : i + STACK])) for i in range(len(near) - STACK + 1)]))
    broken = faulty(audio).unfold(0, WINDOW, HOP)
    fault = {name: scores(b, broken) for name, (_, b) in live.items()}
    half = len(fault["float32"]) // 2
    rows = [("", "float32", "int8")]
    mean = {name: (float(a.mean()), float(b.mean())) for name, (a, b) in found.items()}
    rows += [
        ("score of the published frames (9.4913; int8 10.26)", f"{mean['float32'][0]:.4f}", f"{mean['int8'][0]:.3f}"),
        ("score of samples with these frames", f"{mean['float32'][1]:.3f}", f"{mean['int8'][1]:.3f}"),
        ("the same with a knocking bearing", *(f"{fault[n][half + STACK :].mean():.1f}" for n in ("float32", "int8"))),
    ]
    native = [b.native for _, b in live.values()]
    rows.append(("native stages, of all", *(f"{a} of {b}" for a, b in native)))
    took = times(model, frames, samples, live, folder, quick)
    labels = {"whole": "samples to score, us", "front": "  the spectrum alone, us", "net": "  frames to score, us"}
    rows += [
        (label, f"{took['float32'][key]:.2f}", f"{took['int8'][key]:.2f}" if key != "front" else "-")
        for key, label in labels.items()
    ]
    peer_rows = {k: v for k, v in took.items() if k not in ("float32", "int8")}
    notes = [
        f"{k}: {v['whole']:.1f} us from samples to score with a front end in NumPy, {v['net']:.1f} us from frames."
        for k, v in peer_rows.items()
    ]
    missing = [f"no package {p}: it is left out." for p in ("ai_edge_litert", "onnxruntime") if not peers.installed(p)]
    notes += [*missing, f"A score every {HOP * 1000 // RATE} ms. Minima of interleaved calls, one thread."]
    notes.append(
        f"The recording itself is not to be had: the samples are rebuilt from its frames, "
        f"{float((near - frames).abs().mean()):.2f} dB off in the mean; the network in torch gives {own:.3f} for them."
    )
    metrics: dict[str, Any] = {
        "score": mean["float32"][0], "score_int8": mean["int8"][0], "score_samples": mean["float32"][1],
        "score_samples_int8": mean["int8"][1], "score_samples_torch": own,
        "score_fault": float(fault["float32"][half + STACK :].mean()), "native_stages": native[0][0], "stages": native[0][1],
        "path_us": took["float32"]["whole"], "path_int8_us": took["int8"]["whole"], "front_us": took["float32"]["front"],
        "net_us": took["float32"]["net"], "net_int8_us": took["int8"]["net"],
        "p99_us": p99_us(live["float32"][1].bind(samples[:1].contiguous(), out=torch.empty(1, 1))),
        "peers_path_us": {k: v["whole"] for k, v in peer_rows.items()},
    }  # fmt: skip
    limits = [
        Limit("score of the published frames, off by", abs(metrics["score"] - PUBLISHED), 0.001),
        Limit("score in int8", metrics["score_int8"], 10.3),
        Limit("score of samples, off by what torch has", abs(metrics["score_samples"] - own) / own, 1e-3),
        Limit("score of samples in int8, off by what torch has", abs(metrics["score_samples_int8"] - own) / own, 0.1),
        Limit("stages that are not native", sum(b - a for a, b in native), 0),
        Limit(
            "score of a knocking bearing over that of a whole one",
            metrics["score_fault"] / mean["float32"][1],
            1.5,
            at_least=True,
        ),
        Limit("samples to score, us", metrics["path_us"], 200),
    ]
    return Outcome(
        "anomaly_sound",
        "Anomalies in the sound of a machine",
        "MLPerf Tiny's autoencoder on log-mel frames. A native plan takes 1,024 samples every 32 ms: window, Fourier transform, "
        "mel bands, logarithm, the five newest frames, the network, and its mean squared error.",
        rows, metrics, limits, notes, [_plots(frames, found, fault)],
    )  # fmt: skip


def times(
    model: Score, frames: Tensor, samples: Tensor, live: dict[str, Any], folder: Path, quick: bool
) -> dict[str, dict[str, float]]:
    """us of each, smallest of interleaved calls: "whole", "net", and where it can be told apart "front"."""
    x, frame, y = samples[:1].contiguous(), frames[:1].contiguous(), torch.empty(1, 1)
    bands = torch.empty(1, BANDS)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (net, whole) in live.items():
        calls[name, "net"], calls[name, "whole"] = net.bind(frame, out=y), whole.bind(x, out=y)
        calls[name, "front"] = rt.compile(LogMel().eval(), (x,)).bind(x, out=bands)
    audio, five = x[0].numpy(), frames[:STACK].reshape(1, -1).numpy()
    for label, net in _peers(model, folder).items():
        path, alone = peers.scored(net, peers.FrontEnd()), peers.scored(net)
        calls[label, "whole"], calls[label, "net"] = (lambda p=path: p(audio)), (lambda a=alone: a(five))
    found: dict[str, dict[str, float]] = {}
    for (name, part), us in zip(calls, fastest(list(calls.values()), 200 if quick else 2000), strict=True):
        found.setdefault(name, {})[part] = us
    return found


def fastest(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The smallest time of each call in us, in turn."""
    least = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            call()  # what it reads is then in the cache, for each of them
            begin = time.perf_counter_ns()
            call()
            least[index] = min(least[index], (time.perf_counter_ns() - begin) * 1e-3)
    return least


class Net(nn.Module):
    """The autoencoder alone, [n, 640] frame after frame: what a peer is given."""

    def __init__(self, model: Score) -> None:
        super().__init__()
        self.net, self.order = model.net, networks.by_band()
        self.back = torch.argsort(self.order)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, self.order])[:, self.back]


def _peers(model: Score, folder: Path) -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {}
    if peers.installed("ai_edge_litert"):
        for label, file in (("LiteRT float32", "ad01_fp32.tflite"), ("LiteRT int8", "ad01_int8.tflite")):
            if (folder / file).exists():
                found[label] = peers.litert(folder / file)
    if peers.installed("onnxruntime") and peers.installed("onnx"):
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "net.onnx"
            rt.to_onnx(rt.compile(Net(model).eval(), (torch.zeros(1, STACK * BANDS),)), file)
            found["ONNX Runtime float32"] = peers.onnx(file)
    return found


def on_gpu(folder: Path) -> Outcome:
    """The network on a GPU, all windows of the clip at once."""
    if not torch.cuda.is_available():
        raise Missing("--device cuda: torch sees no GPU here; leave it out.")
    frames = networks.published_frames(folder / CLIP)
    net = Net(networks.score(folder / FILES[0])).eval()
    windows = frames.unfold(0, STACK, 1).transpose(1, 2).reshape(-1, STACK * BANDS).cuda()
    fast = rt.compile(net.cuda(), (windows,), device="cuda")
    score = float((fast(windows) - windows).square().mean())
    rows = [("", "float32 on the GPU"), ("score of the published frames (9.4913)", f"{score:.4f}")]
    limits = [Limit("score, off by", abs(score - PUBLISHED), 0.01)]
    return Outcome("anomaly_sound", "Anomalies in the sound of a machine", "All windows of a clip in one call on a GPU.",
                   rows, {"score": score}, limits)  # fmt: skip


def _plots(frames: Tensor, found: dict[str, Any], fault: dict[str, NDArray[np.float32]]) -> str:
    seconds = np.arange(len(found["float32"][0])) * HOP / RATE
    return chart_section(
        "Scores over the clip",
        [
            Chart(
                "the published frames",
                [Curve("float32", seconds, found["float32"][0], shade=0), Curve("int8", seconds, found["int8"][0], shade=4)],
                x_title="seconds", y_title="score", from_zero=True,
            ),
            Chart(
                "from samples, with a bearing that knocks in the second half",
                [Curve("whole", seconds, found["float32"][1], shade=7), Curve("knocking", seconds, fault["float32"], shade=0),
                 Curve("knocking, int8", seconds, fault["int8"], shade=4)],
                x_title="seconds", y_title="score", from_zero=True,
            ),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("anomaly_sound", __doc__ or "", work, with_data=True))
