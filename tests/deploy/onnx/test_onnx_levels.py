"""ONNX files as ONNX Runtime takes them by itself: every level of its optimizer loads them, and gives what each node says."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from tests.support.onnx_peer import worst

pytestmark = pytest.mark.filterwarnings("ignore")

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")

SCHEMES: dict[str, Any] = {
    "float32": "float32", "w8a8": "w8a8", "w8a8, a scale per row": rt.W8A8(activation="dynamic"), "w4a8": "w4a8",
    "w8a16": "w8a16", "w4a16": "w4a16",
}  # fmt: skip


ROWS = 2
"""Samples of the example."""


class Block(nn.Module):
    """Layers over the steps of a sequence, with what lies between them drawn, and a head over the last step or over all."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        width, hidden = 8 * draw.randint(1, 4), 8 * draw.randint(1, 4)
        self.width, self.steps, self.last = width, draw.randint(2, 6), draw.random() < 0.5
        self.attends, self.adds = draw.random() < 0.5, draw.random() < 0.5
        self.rows = ROWS if draw.random() < 0.5 else -1  # fixed: optimizers fuse more where they know every size
        self.layer = nn.TransformerEncoderLayer(
            width, 2, hidden, batch_first=True, norm_first=draw.random() < 0.5, activation=draw.choice(("relu", "gelu"))
        )
        between = draw.choice((nn.Identity(), nn.LayerNorm(width), nn.GELU(), nn.ReLU(), nn.Tanh()))
        self.mix = nn.Sequential(nn.Linear(width, width, bias=draw.random() < 0.8), between, nn.Linear(width, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(self.rows, self.steps, self.width)
        x = self.layer(x) if self.attends else x
        x = x + self.mix(x) if self.adds else self.mix(x)
        return self.head(x[:, -1] if self.last else x)


def options(level: str, scheme: str) -> Any:
    """The session's own settings, but for those that docs/how-to/onnx.md names."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.log_severity_level = 1, 4
    made.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if "a8" in scheme:
        made.add_session_config_entry("session.x64quantprecision", "1")
    if "w4" in scheme:
        made.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    return made


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_level_gives_what_the_nodes_say(scheme: str, seed: int) -> None:
    draw = random.Random(1000 * seed + len(scheme))
    torch.manual_seed(seed)
    model = Block(draw).eval()
    calls = [torch.randn(ROWS, model.steps, model.width) for _ in range(8)]
    calibration = calls if scheme in ("w8a8", "w4a8") else None
    fast = rt.compile(model, (calls[0],), scheme=SCHEMES[scheme], calibration=calibration)
    written, most = rt.to_onnx(fast).SerializeToString(), 0.02 if "a8" in scheme else 2e-4
    for level in LEVELS:
        made = onnxruntime.InferenceSession(written, options(level, scheme), providers=["CPUExecutionProvider"])
        for rows in (ROWS, 1, 5) if model.rows < 0 else (ROWS,):
            x = torch.randn(rows, model.steps, model.width)
            off = worst(fast(x), made.run(None, {made.get_inputs()[0].name: x.numpy()}))
            assert off < most, f"{level} with {rows} rows: {off:.2g}"
