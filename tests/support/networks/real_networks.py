"""Networks rebuilt in plain torch around trained weights that were published, and the recordings that go with them."""

from __future__ import annotations

import copy
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.voice.networks import Word, word
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


def wake_word(data: Path) -> Word:
    """MLPerf Tiny's streaming wake word, trained. 30 time steps decide what the newest one is."""
    return word(data / "sww_weights.npz")


def wake_word_samples(data: Path) -> tuple[Tensor, Tensor]:
    """The labelled inputs [45, 40, 30] and their classes [45]."""
    stored = arrays(data / "calibration_samples.npz")
    return stored["specs"][:, :, 0].transpose(1, 2).contiguous(), stored["labels"]
