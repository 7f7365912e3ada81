"""Clients that ask and do not read: their answers pile up nowhere, and others are served."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from tests.serve.v2.protocol_server import Running, running, tensor

pytest.importorskip("uvicorn", reason="needs the package uvicorn (extra 'serve')")
grpc = pytest.importorskip("grpc", reason="needs the package grpcio (extra 'serve')")

from rtaccel.serve.v2.messages import MESSAGES  # noqa: E402

WIDTH = 4096
"""Numbers of an answer: 16 kB as bytes, some 80 as JSON."""
GROWTH_BYTES = 48 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    torch.manual_seed(0)
    rt.save(rt.compile(torch.nn.Linear(4, WIDTH).eval(), torch.randn(1, 4)), tmp_path / "wide.rta")
    with running(tmp_path / "wide.rta") as made:
        yield made


def resident(server: Running) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def still_served(server: Running) -> None:
    connection = http.client.HTTPConnection(server.http, timeout=60)
    for _ in range(20):
        body = json.dumps({"inputs": [tensor("input", [[0.5] * 4])]})
        connection.request("POST", "/v2/models/wide/infer", body)
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["outputs"][0]["data"]) == WIDTH


def test_http(server: Running) -> None:
    """A connection sends requests one behind the other until nobody takes them any more: 300 MB of answers would be due."""
    still_served(server)
    before = resident(server)
    body = json.dumps({"inputs": [tensor("input", [[0.5] * 4])]}).encode()
    request = b"POST /v2/models/wide/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        slow.settimeout(1.0)
        sent = 0
        try:
            while sent < 4000:
                slow.sendall(request)
                sent += 1
        except TimeoutError:
            pass  # the server takes no more of them
        still_served(server)
        assert resident(server) - before < GROWTH_BYTES
    still_served(server)


def test_a_grpc_stream(server: Running) -> None:
    still_served(server)
    before = resident(server)
    x = np.full((1, 4), 0.5, np.float32)
    message = MESSAGES["ModelInferRequest"](model_name="wide", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    go, sent = threading.Event(), itertools.count()
    taken: list[int] = []

    def requests() -> Iterator[Any]:
        for number in sent:
            if number == 20_000 or go.is_set():
                return
            taken.append(number)
            yield message

    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
        )
        answers = method(requests(), timeout=60)
        quiet = threading.Event()
        last = -1
        while len(taken) != last and len(taken) < 20_000:  # until nothing more is taken
            last = len(taken)
            quiet.wait(0.5)
        still_served(server)
        assert resident(server) - before < GROWTH_BYTES
        first = next(answers)
        assert not first.error_message
        go.set()
        answers.cancel()
    still_served(server)
