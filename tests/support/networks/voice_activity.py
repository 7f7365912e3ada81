"""silero-vad's network for 16 kHz rebuilt in plain torch, and as one native call that listens chunk by chunk."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.scheme import Scheme

CHUNK, CONTEXT, BINS = 512, 64, 129
"""Samples of a chunk of 32 ms, of what is kept of the chunk before it, and frequencies of the spectrum."""

INT8_CELL: Mapping[str, Scheme] = {"conv4": rt.W8A8("static"), "cell": rt.W8A8("static"), "*": rt.Float32()}
"""Half of the weights in int8. Magnitudes span too much for it: with conv1 to conv3 in int8 too, segments are lost."""


class Vad(nn.Module):
    """(x [batch, 576], h, c [batch, 128]) to (probability of speech [batch, 1], h, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)  # real parts, then imaginary ones
        self.conv1, self.conv2 = nn.Conv1d(BINS, 128, 3, padding=1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, padding=1)
        self.cell, self.head = nn.LSTMCell(128, 128), nn.Linear(128, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.spectrum(F.pad(x, (0, 64), mode="reflect").unsqueeze(1))
        x = torch.hypot(z[:, :BINS], z[:, BINS:])
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        h, c = self.cell(x.squeeze(-1), (h, c))
        return self.head(F.relu(h)).sigmoid(), h, c


def vad_package() -> Path | None:
    """The data of the silero-vad package. It is not imported: that would set the number of torch's threads."""
    found = importlib.util.find_spec("silero_vad")
    return None if found is None or found.origin is None else Path(found.origin).parent / "data"


def packaged_vad(package: Path) -> nn.Module:
    """The network as it comes: (x [batch, 576], state [2, batch, 128]) to (probability [batch, 1], state)."""
    return torch.jit.load(str(package / "silero_vad.jit"))._model.eval()


def vad(package: Path) -> Vad:
    """With the weights of the packaged TorchScript file. The package's .safetensors file holds another training run."""
    stored = packaged_vad(package).state_dict()
    given = {"spectrum.weight": stored["stft.forward_basis_buffer"]}
    for part in ("weight", "bias"):
        for index in range(4):
            given[f"conv{index + 1}.{part}"] = stored[f"encoder.{index}.reparam_conv.{part}"]
        given[f"head.{part}"] = stored[f"decoder.decoder.2.{part}"].reshape((1, 128)[: 2 - (part == "bias")])
        for side in ("ih", "hh"):
            given[f"cell.{part}_{side}"] = stored[f"decoder.rnn.{part}_{side}"]
    model = Vad()
    model.load_state_dict(given)
    return model.eval()


def vad_chunks(audio: Tensor) -> Tensor:
    """Every whole chunk with its context before it, zeros before the first: [chunks, 576]."""
    return F.pad(audio, (CONTEXT, 0)).unfold(0, CONTEXT + CHUNK, CHUNK)


def calibration_of(model: Vad, chunks: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the network reads while it listens to `chunks` in order, as one batch: its states grow on the way."""
    hs, cs = [torch.zeros(1, 128)], [torch.zeros(1, 128)]
    with torch.no_grad():
        for x in chunks[:-1].split(1):
            _, h, c = model(x, hs[-1], cs[-1])
            hs.append(h)
            cs.append(c)
    return [(chunks, torch.cat(hs), torch.cat(cs))]


class Listener:
    """Called as the package's own models are: `probability = listener(chunk, 16000)`.

    Every buffer is its own; the state goes to and fro between two pairs of them, so `step` copies nothing.
    """

    def __init__(
        self,
        model: Vad,
        scheme: Mapping[str, Scheme] | str = "float32",
        calibration: list[tuple[Tensor, Tensor, Tensor]] | None = None,
    ) -> None:
        self.x, self.probability = torch.zeros(1, CONTEXT + CHUNK), torch.zeros(1, 1)
        self.states = [torch.zeros(1, 128) for _ in range(4)]
        h, c, next_h, next_c = self.states
        self.compiled = rt.compile(model, (self.x, h, c), scheme, calibration=calibration)
        self._forth = self.compiled.bind(self.x, h, c, out=(self.probability, next_h, next_c))
        self._back = self.compiled.bind(self.x, next_h, next_c, out=(self.probability, h, c))

    def step(self) -> None:
        """From `x`, a chunk with its context, to `probability`; the state goes on."""
        self._forth()
        self._forth, self._back = self._back, self._forth

    def reset_states(self) -> None:
        for tensor in (self.x, *self.states):
            tensor.zero_()

    def __call__(self, chunk: Tensor, sampling_rate: int = 16000) -> Tensor:
        self.x[:, :CONTEXT] = self.x[:, CHUNK:]
        self.x[:, CONTEXT:] = chunk
        self.step()
        return self.probability
