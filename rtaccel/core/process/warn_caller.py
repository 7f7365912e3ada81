"""Warnings that are shown at the line of the user's code that called this package, however deep inside they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType

import torch

_INSIDE = (f"{Path(__file__).parents[2]}/", f"{Path(torch.__file__).parent}/")


def warn_caller(text: str, category: type[Warning]) -> None:
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
