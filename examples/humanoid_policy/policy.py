"""Unitree's walking policy for the G1: the network, its recorded run, and its forms in float32, int8 and int4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import rtaccel as rt
from examples._shared.data import reads

OBSERVED, JOINTS = 47, 12
SCHEMES: dict[str, rt.W8A8 | rt.W4A8 | str] = {
    "float32": "float32",
    "W8A8": rt.W8A8("static"),
    "W4A8": rt.W4A8(32, activation="static"),
    "W4A8, gptq": rt.W4A8(32, activation="static", rounding="gptq"),
}
"""gptq rounds the two linear layers for their inputs; the weights of an LSTM are always rounded to the nearest."""

EVENED = ("W8A8",)


class Policy(nn.Module):
    """Observations [time, batch, 47] to joint targets [time, batch, 12].

    widest: of each observation in the recorded run, [47]: they are divided by it, and the weights multiplied by as much. int8 has
    one scale for all of them, and actions of 2.3 leave nothing of a tilt of 0.02. int4 weights get worse by it.
    """

    def __init__(self, widest: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", None if widest is None else torch.where(widest > 0, 1 / widest, 1.0))
        self.memory = nn.LSTM(OBSERVED, 64)
        self.actor = nn.Sequential(nn.Linear(64, 32), nn.ELU(), nn.Linear(32, JOINTS))

    def forward(self, observations: Tensor) -> Tensor:
        hidden, _ = self.memory(observations if self.scale is None else observations * self.scale)
        return self.actor(hidden)


@reads("a file of arrays")
def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


@reads("the folder of the robot's policy")
def recorded(folder: Path) -> tuple[Tensor, Tensor]:
    """Observations [1000, 47] and actions [1000, 12] of a run of 20 s."""
    stored = arrays(folder / "trace.npz")
    return stored["obs"], stored["action"]


@reads("the folder of the robot's policy")
def policy(folder: Path, evened: bool = False) -> Policy:
    """With the weights of policy.npz."""
    made = Policy(recorded(folder)[0].abs().amax(0) if evened else None)
    stored = arrays(folder / "policy.npz")
    made.load_state_dict(stored if made.scale is None else {"scale": made.scale, **stored})
    if made.scale is not None:
        with torch.no_grad():
            made.memory.weight_ih_l0 /= made.scale
    return made.eval()


def streamed(folder: Path, scheme: str) -> rt.StreamModel:
    """One robot, calibrated on ten pieces of two seconds of the recorded run."""
    observed, _ = recorded(folder)
    windows = observed.view(10, 100, OBSERVED).transpose(0, 1).contiguous()
    return rt.stream(
        policy(folder, scheme in EVENED),
        observed[:1],
        SCHEMES[scheme],
        calibration=None if scheme == "float32" else [windows],
    )
