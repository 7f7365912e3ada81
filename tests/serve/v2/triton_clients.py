"""Triton's own clients, HTTP and gRPC. Tests that import this are skipped where they or the server's packages are missing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.serve.v2.protocol_server import Running

pytest.importorskip("uvicorn", reason="needs the package uvicorn (extra 'serve')")
pytest.importorskip("grpc", reason="needs the package grpcio (extra 'serve')")
http = pytest.importorskip("tritonclient.http", reason="needs the package tritonclient[http]")
rpc = pytest.importorskip("tritonclient.grpc", reason="needs the package tritonclient[grpc]")

CLIENTS = pytest.mark.parametrize("kind", [http, rpc], ids=["http", "grpc"])


def client(server: Running, kind: ModuleType) -> Any:
    return kind.InferenceServerClient(server.http if kind is http else server.grpc)


def given(kind: ModuleType, name: str, x: np.ndarray, datatype: str = "FP32", **how: Any) -> Any:
    """An input. how: for clients over HTTP, such as binary_data."""
    made = kind.InferInput(name, list(x.shape), datatype)
    made.set_data_from_numpy(x, **how)
    return made
