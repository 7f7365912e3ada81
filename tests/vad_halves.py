"""A voice-activity network as two native calls with one call of torch's between them, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.scheme import Scheme
from tests.real_networks import BINS, CHUNK, CONTEXT, Vad

INT8_CELL: Mapping[str, Scheme] = {"conv4": rt.W8A8("static"), "cell": rt.W8A8("static"), "*": rt.Float32()}
"""Most of the weights in int8. Magnitudes span too much for it: with conv1 to conv3 in int8 too, segments are lost."""


def calibration_of(model: Vad, chunks: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the second half reads while the network listens to `chunks` in order, as one batch."""
    seen, h, c = [], torch.zeros(1, 128), torch.zeros(1, 128)
    with torch.no_grad():
        z = model.spectrum(chunks)
        for magnitude in torch.hypot(z[..., :BINS], z[..., BINS:]).split(1):
            seen.append((magnitude, h, c))
            _, h, c = model.decision(magnitude, h, c)
    magnitudes, hs, cs = zip(*seen)
    return [(torch.cat(magnitudes), torch.cat(hs), torch.cat(cs))]


class Halves:
    """Called as the package's own models are: `probability = halves(chunk, 16000)`.

    Every buffer is its own; the state goes to and fro between two pairs of them, so `step` copies nothing.
    """

    def __init__(
        self,
        model: Vad,
        scheme: Mapping[str, Scheme] | str = "float32",
        calibration: list[tuple[Tensor, Tensor, Tensor]] | None = None,
    ) -> None:
        self.x, self.probability = torch.zeros(1, CONTEXT + CHUNK), torch.zeros(1, 1)
        parts, magnitude = torch.zeros(1, 4, 2 * BINS), torch.zeros(1, 4, BINS)
        self.states = [torch.zeros(1, 128) for _ in range(4)]
        h, c, next_h, next_c = self.states
        self.first = rt.compile(model.spectrum, (self.x,))
        self.second = rt.compile(model.decision, (magnitude, h, c), scheme, calibration=calibration)
        self._spectrum = self.first.bind(self.x, out=parts)
        self._decide = self.second.bind(magnitude, h, c, out=(self.probability, next_h, next_c))
        self._decide_next = self.second.bind(magnitude, next_h, next_c, out=(self.probability, h, c))
        self._polar = (parts[..., :BINS], parts[..., BINS:], magnitude)

    def step(self) -> None:
        """From `x`, a chunk with its context, to `probability`; the state goes on."""
        self._spectrum()
        real, imaginary, magnitude = self._polar
        torch.hypot(real, imaginary, out=magnitude)
        self._decide()
        self._decide, self._decide_next = self._decide_next, self._decide

    def reset_states(self) -> None:
        for tensor in (self.x, *self.states):
            tensor.zero_()

    def __call__(self, chunk: Tensor, sampling_rate: int = 16000) -> Tensor:
        self.x[:, :CONTEXT] = self.x[:, CHUNK:]
        self.x[:, CONTEXT:] = chunk
        self.step()
        return self.probability
