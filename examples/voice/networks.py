"""Two published networks as streams of 32 ms: silero's voice activity and MLPerf Tiny's wake word, each behind its own front.

All read the same chunk: the newest 512 samples with the 513 before them, [n, 1025].
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples._shared.data import reads
from examples._shared.outcome import Missing

RATE, HOP, CHUNK = 16000, 512, 1025
FRAMES = 30
"""That the wake word looks at: 0.96 s."""

WINDOW, BANDS = 1024, 40
CONTEXT, BINS = 64, 129
"""Of silero: samples before a chunk, and frequencies of its spectra of 256 samples."""


# -- voice activity ---------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """[n, 1025] to [n, 128]: four spectra of 256 samples, and four convolutions over them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))
        self.conv1, self.conv2 = nn.Conv1d(BINS, 128, 3, padding=1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = F.pad(x[:, -HOP - CONTEXT :], (0, 64), mode="reflect").unfold(1, 256, 128)
        x = torch.fft.rfft(frames * self.window).abs().transpose(1, 2)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        return x.squeeze(-1)


class Speech(nn.Module):
    """Features over time [batch, time, 128] to the probability of speech [batch, time, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(128, 128, batch_first=True), nn.Linear(128, 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden, _ = self.memory(features)
        return self.head(F.relu(hidden)).sigmoid()


def speech(file: Path) -> tuple[Encoder, Speech]:
    """With the weights of silero-vad's file silero_vad_16k_op15.onnx, which are read as numbers alone."""
    if importlib.util.find_spec("onnx") is None:
        raise Missing("no package onnx, which reads silero's weights: pip install onnx.")
    import onnx
    from onnx import numpy_helper

    kept = {t.name.removeprefix("model."): numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer}
    stored = {name: torch.from_numpy(np.array(value)) for name, value in kept.items()}
    encoder, model = Encoder(), Speech()
    check_spectrum(stored["stft.forward_basis_buffer"][:, 0], encoder.window)
    parts = ("weight", "bias")
    encoder.load_state_dict(
        {"window": encoder.window}
        | {f"conv{i + 1}.{part}": stored[f"encoder.{i}.reparam_conv.{part}"] for i in range(4) for part in parts}
    )
    model.load_state_dict(
        {f"memory.{part}_{side}_l0": stored[f"decoder.rnn.{part}_{side}"] for part in parts for side in ("ih", "hh")}
        | {"head.weight": stored["decoder.decoder.2.weight"][:, :, 0], "head.bias": stored["decoder.decoder.2.bias"]}
    )
    return encoder.eval(), model.eval()


def check_spectrum(basis: Tensor, window: Tensor) -> None:
    """The file holds the spectrum as a matrix, [258, 256]. It is that of a windowed Fourier transform; else Missing."""
    turned = torch.fft.rfft(torch.eye(256) * window).T
    if not torch.allclose(basis, torch.cat([turned.real, turned.imag]), atol=1e-5):
        raise Missing("another silero network than that of version 6.2: pip install 'silero-vad>=6.2,<7'.")


def package() -> Path:
    """The data of the silero-vad package, which is not imported: that would set the number of torch's threads."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or found.origin is None:
        raise Missing("no package silero-vad, which has the voice activity network: pip install silero-vad.")
    return Path(found.origin).parent / "data"


# -- the wake word ----------------------------------------------------------------------------------------------------


class LogMel(nn.Module):
    """[n, 1025] to [n, 40]: energies of 64 ms on the mel scale, from -52 to 12 dB as 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hamming_window(WINDOW, periodic=False) / WINDOW**0.5)
        self.register_buffer("bands", mel_bands())

    def forward(self, x: Tensor) -> Tensor:
        sharpened = x[:, 1:] - (1 - 2**-5) * x[:, :-1]
        z = torch.fft.rfft(sharpened * self.window)
        power = (z.real.square() + z.imag.square()) @ self.bands
        return ((10 * torch.log10(power.clamp(min=1e-30)) + 52) / 64).clamp(0, 1)


def mel_bands() -> Tensor:
    """Weights [513, 40]: triangles of equal width in 1127 ln(1 + f / 700), without 0 Hz."""
    mel = 1127 * torch.log1p(torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64) / 700)
    edges = torch.linspace(0, float(mel[-1]), BANDS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights.float()


class Word(nn.Module):
    """[batch, 40, time] to the probabilities [batch, 3] of the newest frame: the word, silence, anything else."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = BANDS
        for taps, filters in ((3, 128), (5, 128), (10, 128), (15, 32)):
            layers.append(nn.Conv1d(width, width, taps, groups=width, bias=False))
            layers += [nn.Conv1d(width, filters, 1, bias=False), nn.BatchNorm1d(filters, eps=1e-3), nn.ReLU()]
            width = filters
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[:, :, -1]).softmax(-1)


@reads("the weights of MLPerf Tiny's wake word")
def word(file: Path) -> Word:
    """With the weights of MLPerf Tiny's sww_weights.npz (Keras layout: taps first, inputs x outputs)."""
    with np.load(file, allow_pickle=False) as found:
        stored = {key: torch.from_numpy(found[key]) for key in found.files}
    model, given = Word(), {}
    for block in range(4):
        number, first = f"_{block}" if block else "", 4 * block
        given[f"body.{first}.weight"] = stored[f"depthwise_conv2d{number}/depthwise_kernel"][:, 0].permute(1, 2, 0)
        given[f"body.{first + 1}.weight"] = stored[f"conv2d{number}/kernel"][0].permute(2, 1, 0)
        for name, keras in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                            ("running_var", "moving_variance")):  # fmt: skip
            given[f"body.{first + 2}.{name}"] = stored[f"batch_normalization{number}/{keras}"]
        given[f"body.{first + 2}.num_batches_tracked"] = torch.tensor(0)
    given |= {"head.weight": stored["dense/kernel"].T, "head.bias": stored["dense/bias"]}
    model.load_state_dict(given)
    return model.eval()


@reads("the benchmark's labeled inputs")
def labelled(file: Path) -> tuple[Tensor, Tensor]:
    """The benchmark's inputs, [45, 40, 30], and their classes."""
    with np.load(file, allow_pickle=False) as stored:
        specs, labels = (torch.from_numpy(stored[name]) for name in ("specs", "labels"))
    return specs[:, :, 0].transpose(1, 2).contiguous(), labels


# -- the gate ---------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """[n, 1025] to answers [n, 1]: by how many dB the newest 32 ms are above `floor_db`, 0 where they are not."""

    def __init__(self, floor_db: float) -> None:
        super().__init__()
        self.floor_db = floor_db

    def forward(self, x: Tensor) -> Tensor:
        level = 10 * torch.log10(x[:, -HOP:].square().mean(1, keepdim=True) + 1e-12)
        return F.relu(level - self.floor_db)
