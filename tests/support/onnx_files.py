"""ONNX files that published packages carry, and an input for each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class OnnxFile:
    """package, path: where it lies. fixed: inputs that a user keeps. feeds: the others, of a seed."""

    name: str
    package: str
    path: str
    feeds: Callable[[np.random.Generator], Feeds]
    fixed: dict[str, Any] = field(default_factory=dict)

    def find(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        found = Path(next(iter(spec.submodule_search_locations))) / self.path
        return found if found.is_file() else None


def _chunk(rng: np.random.Generator) -> Feeds:
    return {
        "input": (rng.standard_normal((1, 576)) * 0.1).astype(np.float32),
        "state": (rng.standard_normal((2, 1, 128)) * 0.1).astype(np.float32),
    }


def _sequence(rng: np.random.Generator) -> Feeds:
    zeros = np.zeros((1, 1, 128), np.float32)
    return {"input": (rng.standard_normal((4, 576)) * 0.1).astype(np.float32), "h": zeros, "c": zeros}


def _text(rng: np.random.Generator) -> Feeds:
    return {"bytes": rng.integers(0, 257, (1, 2048)).astype(np.int32)}


def _music(rng: np.random.Generator) -> Feeds:
    return {"serving_default_input_2:0": (rng.standard_normal((1, 43844, 1)) * 0.3).astype(np.float32)}


FILES = (
    OnnxFile("silero-vad", "silero_vad", "data/silero_vad.onnx", _chunk, {"sr": 16000}),
    OnnxFile("silero-vad, opset 15", "silero_vad", "data/silero_vad_16k_op15.onnx", _chunk, {"sr": 16000}),
    OnnxFile("silero-vad, opset 18", "silero_vad", "data/silero_vad_op18_ifless.onnx", _chunk, {"sr": 16000}),
    OnnxFile("silero-vad, half", "silero_vad", "data/silero_vad_half.onnx", _chunk),
    OnnxFile("silero-vad, sequence", "silero_vad", "data/silero_vad_16k_sequence.onnx", _sequence),
    OnnxFile("magika", "magika", "models/standard_v3_3/model.onnx", _text),
    OnnxFile("basic-pitch", "basic_pitch", "saved_models/icassp_2022/nmp.onnx", _music),
)
