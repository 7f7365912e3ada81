"""Networks over samples, a chunk a call, beside torch eager that keeps the samples and states of its layers itself.

    python -m bench.streaming.samples [--rounds 9] [--json FILE]

One thread; calls alternate in one process, and a figure is the smallest mean of a round. Both have the same results, which are
compared before. In eager each layer reads what it kept of the past and its chunk, joined, and keeps the end of that.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import rtaccel as rt

SIZE, HOP, BANDS = 512, 128, 40
STRIDES, CHANNELS = (4, 4, 2), (1, 16, 32, 64)


class Kept(nn.Module):
    """The newest `count` samples before the input, kept from call to call; or as many zeros before a whole window."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.past, self.count, self.stepping = torch.zeros(1, channels, count), count, False

    def forward(self, x: Tensor) -> Tensor:
        if not self.stepping:
            return pad(x, (self.count, 0))
        x = torch.cat([self.past, x], -1)
        self.past = x[..., x.shape[-1] - self.count :].clone()
        return x


class Memory(nn.Module):
    """A GRU, whose state is kept from call to call where it steps."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru, self.state, self.stepping = nn.GRU(inputs, hidden, batch_first=True), torch.zeros(1, 1, hidden), False

    def forward(self, x: Tensor) -> Tensor:
        if not self.stepping:
            return self.gru(x)[0]
        y, self.state = self.gru(x, self.state)
        return y


class Spectral(nn.Module):
    """[batch, samples] to 3 numbers: a spectrum, bands, a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.memory, self.head = Kept(1, SIZE - HOP), Memory(BANDS, 32), nn.Linear(32, 3)
        self.bands = nn.Linear(SIZE // 2 + 1, BANDS, bias=False)
        self.register_buffer("window", torch.hann_window(SIZE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.kept(x[:, None])[:, 0]
        z = torch.stft(x, SIZE, HOP, window=self.window, center=False, return_complex=True)
        energies = z.real.square() + z.imag.square()
        y = torch.log(self.bands(energies.transpose(1, 2)).square() + 1e-3)
        return self.head(self.memory(y)[:, -1])


class Strided(nn.Module):
    """[batch, 1, samples] to 3 numbers, or to as many samples by transposed convolutions."""

    def __init__(self, up: bool) -> None:
        super().__init__()
        pairs = list(zip(CHANNELS, CHANNELS[1:], STRIDES))
        self.kept = nn.ModuleList(Kept(c, s) for c, _, s in pairs)
        self.down = nn.ModuleList(nn.Conv1d(c, n, 2 * s, s) for c, n, s in pairs)
        self.memory = Memory(64, 64)
        self.up_kept = nn.ModuleList(Kept(n, 1) for _, n, _ in reversed(pairs)) if up else nn.ModuleList()
        self.up = (
            nn.ModuleList(nn.ConvTranspose1d(n, c, 2 * s, s) for c, n, s in reversed(pairs)) if up else self.up_kept
        )
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        for kept, layer in zip(self.kept, self.down):
            x = torch.nn.functional.elu(layer(kept(x)))
        y = self.memory(x.transpose(1, 2))
        if not len(self.up):
            return self.head(y[:, -1])
        x = y.transpose(1, 2)
        for kept, layer in zip(self.up_kept, self.up):
            stride, count = int(layer.stride[0]), x.shape[-1]  # type: ignore[index]
            x = layer(kept(x) if kept.stepping else x)
            x = x[..., stride if kept.stepping else 0 :][..., : count * stride]
        return x


def stepping(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, (Kept, Memory)):
            module.stepping = True
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    f"spectrum of {SIZE} samples every {HOP}, {BANDS} bands, GRU of 32": (Spectral, HOP, False),
    "convolutions 1-16-32-64, strides 4, 4, 2, GRU of 64": (lambda: Strided(up=False), 32, True),
    "the same, and back up to samples": (lambda: Strided(up=True), 32, True),
}


def measured(name: str, rounds: int) -> dict[str, float]:
    make, hop, channels = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    live = rt.stream(network, torch.randn(1, hop))
    eager = stepping(network)
    for x in torch.randn(20, 1, hop):
        with torch.inference_mode():
            want = eager(x[:, None] if channels else x).flatten(1)
        torch.testing.assert_close(live.step(x), want, rtol=1e-3, atol=1e-4)
    x = torch.randn(1, hop)
    given = x[:, None] if channels else x

    def one() -> None:
        with torch.inference_mode():
            eager(given)

    calls: dict[str, Callable[[], object]] = {"torch eager": one, "rt.stream": live.bind(x, out=torch.empty_like(want))}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for peer, call in calls.items():
            count = 2000 if peer == "rt.stream" else 100
            start = time.perf_counter()
            for _ in range(count):
                call()
            best[peer] = min(best[peer], (time.perf_counter() - start) / count * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measured(name, asked.rounds) for name in NETWORKS}
    print("| one step, us | torch eager | `rt.stream` |\n|---|---|---|")
    for name, best in found.items():
        print(f"| {name} | {best['torch eager']:.0f} | {best['rt.stream']:.2f} |")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
