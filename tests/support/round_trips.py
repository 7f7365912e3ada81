"""The ways in which a layer's state reaches another process."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WAYS = ("state_dict", "safetensors", "torch.save", "deepcopy", "pickle")


def passed_on(layer: nn.Module, other: nn.Module, way: str, folder: Path) -> nn.Module:
    """A layer with the state of the first: `other`, or a copy that is made as a whole."""
    if way == "state_dict":
        other.load_state_dict(layer.state_dict())
    elif way == "safetensors":
        save_file(layer.state_dict(), folder / "layer.safetensors")
        other.load_state_dict(load_file(folder / "layer.safetensors"))
    elif way == "torch.save":
        torch.save(layer.state_dict(), folder / "layer.pt")
        other.load_state_dict(torch.load(folder / "layer.pt", weights_only=True))
    elif way == "deepcopy":
        other = copy.deepcopy(layer)
    else:
        other = pickle.loads(pickle.dumps(layer))
    return other
