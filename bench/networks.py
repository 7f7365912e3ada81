"""Networks that benchmarks and tests share. Real weights are read from the test data folder, where it is there."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rtaccel.core.settings import test_data

AD01_WIDTHS = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)


def ad01_folder() -> Path | None:
    folder = test_data() / "mlperf_tiny_ad01"
    return folder if (folder / "ad01_weights.npz").exists() else None


def autoencoder(seed: int = 0) -> nn.Sequential:
    """The MLPerf Tiny anomaly-detection autoencoder's shape: 640-128x4-8-128x4-640 with BatchNorm and ReLU."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(AD01_WIDTHS[:-1]):
        layers += [nn.Linear(k, n), nn.BatchNorm1d(n, eps=1e-3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(AD01_WIDTHS[-2], AD01_WIDTHS[-1])).eval()


def ad01(folder: Path) -> nn.Sequential:
    """The same with the trained weights of MLPerf Tiny (Keras layout: dense kernels are inputs x outputs)."""
    model = autoencoder()
    with np.load(folder / "ad01_weights.npz", allow_pickle=False) as stored:
        weights = {key: torch.from_numpy(stored[key].astype(np.float32)) for key in stored.files}
    dense = _layers(weights, "kernel")
    norms = _layers(weights, "gamma")
    with torch.no_grad():
        for layer, name in zip([m for m in model if isinstance(m, nn.Linear)], dense, strict=True):
            layer.weight.copy_(weights[f"{name}/kernel"].T)
            layer.bias.copy_(weights[f"{name}/bias"])
        for layer, name in zip([m for m in model if isinstance(m, nn.BatchNorm1d)], norms, strict=True):
            layer.weight.copy_(weights[f"{name}/gamma"])
            layer.bias.copy_(weights[f"{name}/beta"])
            layer.running_mean.copy_(weights[f"{name}/moving_mean"])
            layer.running_var.copy_(weights[f"{name}/moving_variance"])
    return model


def _layers(weights: dict[str, Tensor], part: str) -> list[str]:
    """Layer names that have this part, in the order Keras numbered them: dense, dense_1, ..., dense_10."""
    names = [key.rsplit("/", 1)[0] for key in weights if key.endswith(f"/{part}")]
    return sorted(names, key=lambda n: int(n.rsplit("_", 1)[1]) if n.rsplit("_", 1)[-1].isdigit() else 0)


def ad01_windows(folder: Path) -> Tensor:
    """196 windows of 5 frames x 128 log-mel bands of one real recording: [196, 640]."""
    frames = np.fromfile(folder / "normal_id_01_00000000_logmel_200x128_f32.bin", dtype=np.float32).reshape(200, 128)
    return torch.from_numpy(np.stack([frames[i : i + 5].ravel() for i in range(196)]))


def score(model: nn.Module, windows: Tensor) -> float:
    """Mean squared reconstruction error, averaged over the windows: the anomaly score of the recording."""
    with torch.no_grad():
        return float((model(windows) - windows).square().mean(dim=1).mean())


def jet(seed: int = 0) -> nn.Sequential:
    """A particle-jet tagger, 16-64-32-32-5 with softmax: small enough that call overhead is most of its time."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5), nn.Softmax(-1)
    ).eval()  # fmt: skip


def policy(seed: int = 0) -> nn.Sequential:
    """A robot's control policy, 48-512-256-128-12 with ELU."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(48, 512), nn.ELU(), nn.Linear(512, 256), nn.ELU(), nn.Linear(256, 128), nn.ELU(), nn.Linear(128, 12)
    ).eval()
