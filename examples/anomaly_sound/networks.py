"""MLPerf Tiny's anomaly detector from samples to score: a log-mel frame every 32 ms, five of them in an autoencoder."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples._shared.data import reads

RATE, WINDOW, HOP, BANDS, STACK = 16000, 1024, 512, 128, 5
WIDTHS = (STACK * BANDS, 128, 128, 128, 128, 8, 128, 128, 128, 128, STACK * BANDS)


def mel_bands() -> NDArray[np.float64]:
    """Weights [513, 128]: triangles of equal area on Slaney's mel scale, linear to 1 kHz and logarithmic above."""

    def hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
        linear, log = mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27)
        return np.where(mel < 15, linear, log)

    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    edges = hertz(np.linspace(0, top, BANDS + 2))
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


class LogMel(nn.Module):
    """Samples [n, 1024] to the energies of 128 bands in dB, [n, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW))
        self.register_buffer("bands", torch.from_numpy(mel_bands()).float())

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(x * self.window)
        power = (z.real.square() + z.imag.square()) @ self.bands
        return 10 * torch.log10(power + torch.finfo(torch.float32).eps)


class Score(nn.Module):
    """Log-mel frames [batch, 128, time] to the score [batch, 1] of the newest five: the mean squared error of the autoencoder.

    BatchNorm is part of the linear layer before it. `stack` puts the five newest frames side by side, band by band; it is a
    convolution, so a stream keeps them in its ring.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Conv1d(BANDS, STACK * BANDS, STACK, groups=BANDS, bias=False)
        layers: list[nn.Module] = []
        for given, made in itertools.pairwise(WIDTHS[:-1]):
            layers += [nn.Linear(given, made), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(*WIDTHS[-2:]))
        self.mean = nn.Linear(STACK * BANDS, 1, bias=False)
        with torch.no_grad():
            self.stack.weight.copy_(torch.eye(STACK).repeat(BANDS, 1)[:, None])
            self.mean.weight.fill_(1 / (STACK * BANDS))

    def forward(self, frames: Tensor) -> Tensor:
        x = self.stack(frames).transpose(1, 2)
        return self.mean((x - self.net(x)).square())[:, -1]


def by_band() -> Tensor:
    """Place of each element of `stack`'s order in the benchmark's, which has frame after frame."""
    return torch.arange(STACK * BANDS).reshape(STACK, BANDS).T.reshape(-1)


@reads("the weights of MLPerf Tiny's anomaly detector")
def score(file: Path) -> Score:
    """With the weights of ad01_weights.npz (Keras layout: inputs x outputs)."""
    with np.load(file, allow_pickle=False) as found:
        stored = {key: torch.from_numpy(found[key]) for key in found.files}
    model, order = Score(), by_band()
    names = list(dict.fromkeys(key.rsplit("/", 1)[0] for key in stored))
    dense = sorted((n for n in names if n.startswith("dense")), key=_number)
    norms = sorted((n for n in names if n.startswith("batch_norm")), key=_number)
    with torch.no_grad():
        linear = [layer for layer in model.net if isinstance(layer, nn.Linear)]
        for index, (layer, name) in enumerate(zip(linear, dense, strict=True)):
            weight, bias = stored[f"{name}/kernel"].T.double(), stored[f"{name}/bias"].double()
            if index < len(norms):
                of = {
                    part: stored[f"{norms[index]}/{part}"].double()
                    for part in ("gamma", "beta", "moving_mean", "moving_variance")
                }
                scale = of["gamma"] / (of["moving_variance"] + 1e-3).sqrt()
                weight, bias = weight * scale[:, None], (bias - of["moving_mean"]) * scale + of["beta"]
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        linear[0].weight.copy_(linear[0].weight[:, order].clone())
        linear[-1].weight.copy_(linear[-1].weight[order].clone())
        linear[-1].bias.copy_(linear[-1].bias[order].clone())
    return model.eval()


def _number(name: str) -> int:
    tail = name.rsplit("_", 1)[-1]
    return int(tail) if tail.isdigit() else 0


@reads(f"float32 frames of {BANDS} bands")
def published_frames(file: Path) -> Tensor:
    """The log-mel frames of a real machine's clip, [200, 128]."""
    return torch.from_numpy(np.fromfile(file, dtype="<f4").reshape(-1, BANDS))


def rebuilt_audio(frames: Tensor, steps: int = 300, seed: int = 0) -> Tensor:
    """Samples whose log-mel frames are near those given: from noise with these energies, by gradient descent on the samples.

    frames: [n, 128]. Gives float32 [1024 + 512 (n - 1)].
    """
    front = LogMel().eval()
    generator = torch.Generator().manual_seed(seed)
    count = WINDOW + HOP * (len(frames) - 1)
    noise = torch.randn(count, generator=generator)
    spectrum = torch.stft(noise, WINDOW, HOP, window=torch.hann_window(WINDOW), center=True, return_complex=True)
    bands = front.bands / front.bands.sum(0)
    power = (10 ** (frames / 10) / front.bands.sum(0)) @ (bands / bands.sum(1, keepdim=True).clamp(min=1e-9)).T
    near = torch.arange(spectrum.shape[1]).sub(1).clamp(0, len(frames) - 1)
    shaped = spectrum / spectrum.abs().clamp(min=1e-6) * power[near].T.sqrt()
    x = torch.istft(shaped, WINDOW, HOP, window=torch.hann_window(WINDOW), length=count).detach()
    loud = float(x.square().mean().sqrt())
    y = (x / loud).requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    for _ in range(steps):
        loss = (front((y * loud).unfold(0, WINDOW, HOP)) - frames).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return (y * loud).detach()
