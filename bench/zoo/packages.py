"""Packages that need a hand to be imported beside a CPU build of torch, and none may ask a hub for weights."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import warnings
from typing import Any

EXTENSION = "torchaudio._extension"

BY_ITSELF = frozenset({"nbeats-pytorch"})
"""Packages that go in without what they ask for (docs/reference/zoo.md): an old protobuf, for a part that nobody imports."""


def offline() -> None:
    """Keeps packages from asking a hub for weights, which the zoo draws, and from logging elsewhere."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    warnings.filterwarnings("ignore")


def prepare() -> None:
    """Makes torchaudio importable where its native library cannot be loaded.

    Its wheel on PyPI is built against CUDA. The networks are pure torch and run without the library, so the package is
    imported as one that was built without it; operators of the library itself are then missing and raise.
    """
    if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is None:
        return
    try:
        import torchaudio
    except OSError:
        for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
            del sys.modules[name]
        stand_in = types.ModuleType(EXTENSION)
        stand_in.__dict__.update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False, _check_cuda_version=_nothing, fail_if_no_align=_same
        )
        sys.modules[EXTENSION] = stand_in
        import torchaudio  # noqa: F401


def _nothing() -> None:
    return None


def _same(function: Any) -> Any:
    return function
