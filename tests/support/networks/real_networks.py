"""Networks rebuilt in plain torch around trained weights that were published, and the recordings that go with them."""

from __future__ import annotations

import copy
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rtaccel.core.settings import test_data

State = tuple[Tensor, Tensor]


def folder(name: str, file: str) -> Path | None:
    """A folder of the test data that holds `file`; None where it is not there."""
    found = test_data() / name
    return found if (found / file).exists() else None


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def recording(path: Path) -> Tensor:
    """The first channel of a wave file of 16 bits as float32 in -1 .. 1."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, file.getnchannels())
    return torch.from_numpy(samples[:, 0].astype(np.float32) / 32768)


# -- a walking robot --------------------------------------------------------------------------------------------------


class WalkingPolicy(nn.Module):
    """Unitree's policy for the G1: observations [time, batch, 47] to joint targets [time, batch, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(47, 64)
        self.actor = nn.Sequential(nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 12))

    def forward(self, observations: Tensor) -> Tensor:
        hidden, _ = self.memory(observations)
        return self.actor(hidden)


class WalkingStep(nn.Module):
    """One step of it, [1, batch, 47], with the states in and out."""

    def __init__(self, policy: WalkingPolicy) -> None:
        super().__init__()
        self.memory, self.actor = policy.memory, policy.actor

    def forward(self, observation: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.memory(observation, state)
        return self.actor(hidden), state


def walking_policy(data: Path) -> WalkingPolicy:
    policy = WalkingPolicy()
    policy.load_state_dict(arrays(data / "policy.npz"))
    return policy.eval()


class Evened(nn.Module):
    """The same policy with every observation brought to the range -1 .. 1, and its weights divided by as much.

    The scale of an int8 tensor is that of its widest column: actions of 2.3 leave nothing of a tilt of 0.02.
    """

    def __init__(self, policy: WalkingPolicy, observations: Tensor) -> None:
        super().__init__()
        widest = observations.abs().amax(0)
        self.register_buffer("scale", torch.where(widest > 0, 1 / widest, 1.0))
        self.memory, self.actor = copy.deepcopy(policy.memory), policy.actor
        with torch.no_grad():
            self.memory.weight_ih_l0.div_(self.scale)

    def forward(self, observations: Tensor) -> Tensor:
        hidden, _ = self.memory(observations * self.scale)
        return self.actor(hidden)


# -- a wake word -------------------------------------------------------------------------------------------------------


class WakeWord(nn.Module):
    """MLPerf Tiny's streaming wake word: depthwise and pointwise convolutions over time, without padding.

    [batch, 40 features, time] to the probabilities [batch, 3] of the newest time step, which 30 time steps decide.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 40
        for taps, filters in ((3, 128), (5, 128), (10, 128), (15, 32)):
            layers.append(nn.Conv1d(width, width, taps, groups=width, bias=False))
            layers += [nn.Conv1d(width, filters, 1, bias=False), nn.BatchNorm1d(filters, eps=1e-3), nn.ReLU()]
            width = filters
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[:, :, -1]).softmax(-1)


def wake_word(data: Path) -> WakeWord:
    """With the trained weights (Keras layout: taps first, inputs x outputs)."""
    model, stored = WakeWord(), arrays(data / "sww_weights.npz")
    given: dict[str, Tensor] = {}
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


def wake_word_samples(data: Path) -> tuple[Tensor, Tensor]:
    """The labelled inputs [45, 40, 30] and their classes [45]."""
    stored = arrays(data / "calibration_samples.npz")
    return stored["specs"][:, :, 0].transpose(1, 2).contiguous(), stored["labels"]
