"""The Python backend of examples/serve, with Triton's module replaced by the few classes of it that it uses."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rtaccel as rt
from tests.serve.v2.protocol_server import STREAMS

FILE = Path(__file__).parents[3] / "examples/serve/triton/gru/1/model.py"


@dataclass
class Tensor:
    name: str
    value: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.value


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: Any = None


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake = SimpleNamespace(
        Tensor=Tensor, InferenceResponse=Response, TritonError=str,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]) if name in request else None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    spec = importlib.util.spec_from_file_location("triton_model", FILE)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def opened(backend: ModuleType, file: Path, tmp_path: Path) -> Any:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.rta").write_bytes(file.read_bytes())
    model = backend.TritonPythonModel()
    model.initialize({"model_repository": str(tmp_path), "model_version": "1"})
    return model


def ask(x: np.ndarray, sequence: int, start: bool = False, end: bool = False) -> dict[str, np.ndarray]:
    flags = {"START": np.float32([start]), "END": np.float32([end]), "CORRID": np.uint64([sequence])}
    return {"x_t": x, **flags}


def test_sequences(backend: ModuleType, files: tuple[Path, ...], tmp_path: Path) -> None:
    model, alone = opened(backend, files[1], tmp_path), rt.load(files[1])
    for t in range(3):
        xs = [np.random.default_rng().standard_normal((1, 3), np.float32) for _ in range(STREAMS)]
        asked = [ask(x, 10 + i, t == 0, t == 2) for i, x in enumerate(xs)]
        responses = model.execute(
            [*asked, ask(xs[0], 99), ask(xs[0], 77, True), ask(xs[0][:, :2], 10, True)] if t == 0 else asked
        )
        for i, x in enumerate(xs):
            (tensor,) = responses[i].output_tensors
            np.testing.assert_allclose(tensor.value, alone.step(x, streams=[i]), rtol=0, atol=1e-6)
        if t == 0:
            assert "has not begun" in responses[STREAMS].error
            assert "in use" in responses[STREAMS + 1].error
            assert "float32[1, 2]" in responses[STREAMS + 2].error
    assert (model.streams, len(model.free)) == ({}, STREAMS)


def test_a_model_without_a_past(backend: ModuleType, files: tuple[Path, ...], tmp_path: Path) -> None:
    model, x = opened(backend, files[0], tmp_path), np.ones((2, 6), np.float32)
    good, bad, other = model.execute([{"input": x}, {"input": x[:, :5].copy()}, {}])
    np.testing.assert_allclose(good.output_tensors[0].value, rt.load(files[0])(x), rtol=0, atol=1e-6)
    assert "float32[2, 5]" in bad.error
    assert "no input" in other.error
