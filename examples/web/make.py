"""Writes a folder with a page that runs the MLPerf Tiny autoencoder in the browser: the module, the model, a recording."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from bench import networks
from examples._shared import data
from examples._shared.outcome import Missing
from rtaccel.deploy.pack import pack

SOURCE = (
    "https://github.com/mlcommons/tiny has it under benchmark/training/anomaly_detection; take what README.md of "
    "examples/anomaly_sound names"
)


def make(folder: Path, out: Path) -> float:
    """Returns the score of the recording, as the page has to give it."""
    out.mkdir(parents=True, exist_ok=True)
    model, windows = networks.ad01(folder), networks.ad01_windows(folder)
    fast = rt.compile(model, windows[:1], "w8a8", calibration=[windows])
    file = rt.save(fast, out / "ad01.rta")
    print(pack(file, out, ["wasm"]))
    windows.numpy().astype("<f4").tofile(out / "windows.bin")
    shutil.copyfile(Path(__file__).parent / "index.html", out / "index.html")
    windowed = torch.cat([fast(row[None]) for row in windows])
    return float((windowed - windows).square().mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder with ad01_weights.npz and the recording")
    args = parser.parse_args()
    try:
        folder = data.folder(args.data, "mlperf_tiny_ad01", ("ad01_weights.npz",), SOURCE)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    score = make(folder, args.out)
    print(f"score of the recording: {score:.4f}. Now: python -m http.server -d {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
