"""A half on another machine: every transport gives the bits of the whole, and bad frames change nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.frames import Writer
from rtaccel.serve.remote import Endpoint, Inside, Remote, TimedOut
from rtaccel.serve.remote.grpc import GrpcClient, GrpcServer
from rtaccel.serve.remote.udp import UdpClient, UdpServer
from rtaccel.serve.remote.zenoh import ZenohClient, ZenohServer

KEY = bytes(range(16))


@contextmanager
def inside(endpoint: Endpoint) -> Iterator[Any]:
    yield Inside(endpoint)


@contextmanager
def udp(endpoint: Endpoint) -> Iterator[Any]:
    with UdpServer(endpoint) as server:
        yield UdpClient(server.address)


@contextmanager
def zenoh(endpoint: Endpoint) -> Iterator[Any]:
    library = pytest.importorskip("zenoh", reason="the package eclipse-zenoh is not installed")
    session = library.open(library.Config())
    key = f"rtaccel/{uuid4().hex}"
    with ZenohServer(endpoint, key, session):
        yield ZenohClient(key, session)
    session.close()


@contextmanager
def grpc(endpoint: Endpoint) -> Iterator[Any]:
    pytest.importorskip("grpc", reason="the package grpcio is not installed")
    with GrpcServer(endpoint) as server:
        yield GrpcClient(server.address)


@contextmanager
def grpc_calls(endpoint: Endpoint) -> Iterator[Any]:
    pytest.importorskip("grpc", reason="the package grpcio is not installed")
    with GrpcServer(endpoint) as server:
        yield GrpcClient(server.address, stream=False)


@contextmanager
def zenoh_alone(endpoint: Endpoint) -> Iterator[Any]:
    """Sessions of their own."""
    pytest.importorskip("zenoh", reason="the package eclipse-zenoh is not installed")
    key = f"rtaccel/{uuid4().hex}"
    with ZenohServer(endpoint, key):
        yield ZenohClient(key)


TRANSPORTS = pytest.mark.parametrize("transport", [inside, udp, zenoh, grpc, grpc_calls])


@pytest.mark.parametrize("transport", [inside, udp, zenoh, zenoh_alone, grpc, grpc_calls])
def test_the_result_is_that_of_the_whole(transport: Any, cut: rt.Cut) -> None:
    endpoint = Endpoint.of(cut, key=KEY)
    with transport(endpoint) as client, Remote.of(cut, client, key=KEY) as remote:
        for _ in range(20):
            x = torch.randn(2, 40)
            assert torch.equal(remote(x, timeout_s=60), cut._whole(x))
        assert remote.stats().answered == endpoint.stats().answered == 20
        assert endpoint.stats().refused == {}


@TRANSPORTS
def test_bad_frames_get_no_answer(transport: Any, cut: rt.Cut) -> None:
    endpoint = Endpoint.of(cut)
    with transport(endpoint) as client, Remote.of(cut, client) as remote:
        remote(torch.randn(2, 40), timeout_s=60)
        x = np.zeros((2, 8), np.float32)
        good = Writer([x], cut.digest)
        frame = bytearray(good.bytes)
        good.write(frame, 5)
        sent = {
            "truncated": [frame[:30], frame[:-8]], "magic": [b"GET / HTTP/1.1" + bytes(100)], "digest": [frame[:-1] + b"\1"],
            "oversize": [frame + bytes(8), bytes(5000)],
        }  # fmt: skip
        if transport is grpc:
            sent["oversize"].pop()  # what is far too large ends its stream: tests/serve/remote/test_grpc.py
        other = Writer([x], bytes(32))
        other.write(frame, 9)
        sent["model"] = [bytes(frame)]
        good.session -= 10**15  # a sender of long ago
        good.write(frame, 10**6)
        sent["session"] = [bytes(frame)]
        for frames in sent.values():
            for bad in frames:
                client.send(memoryview(bytes(bad)))
        assert remote(torch.randn(2, 40), timeout_s=60) is not None
        expected = {reason: len(frames) for reason, frames in sent.items()}
        if transport is grpc_calls:
            expected["oversize"] -= 1  # what is far too large never comes as far as the endpoint
        end = time.monotonic() + 60
        while endpoint.stats().refused != expected and time.monotonic() < end:
            time.sleep(0.01)
        assert endpoint.stats().refused == expected
        assert endpoint.stats().answered == 2


def test_replayed_and_reordered_requests(cut: rt.Cut) -> None:
    endpoint = Endpoint.of(cut)
    writer = Writer([np.zeros((2, 8), np.float32)], cut.digest)
    frames = []
    for sequence in (1, 2, 3):
        frame = bytearray(writer.bytes)
        writer.write(frame, sequence)
        frames.append(bytes(frame))
    assert [endpoint.answer(frames[i], "a") is None for i in (0, 2, 1, 2, 0)] == [False, False, True, True, True]
    assert endpoint.stats().refused == {"reordered": 2, "replayed": 1}
    assert endpoint.answer(frames[1], "b") is not None  # another sender
    writer.session += 1
    writer.write(frame, 1)
    assert endpoint.answer(frame, "a") is not None  # the same one, started anew
    assert endpoint.answer(frames[2], "a") is None


def test_an_endpoint_that_started_anew_goes_on(cut: rt.Cut) -> None:
    first = Endpoint.of(cut)
    client = Inside(first)
    remote = Remote.of(cut, client)
    remote(torch.randn(2, 40))
    client.endpoint = Endpoint.of(cut)
    x = torch.randn(2, 40)
    assert torch.equal(remote(x), cut._whole(x))


def test_few_senders_are_remembered(cut: rt.Cut) -> None:
    endpoint = Endpoint.of(cut, max_peers=3)
    writer = Writer([np.zeros((2, 8), np.float32)], cut.digest)
    frame = bytearray(writer.bytes)
    writer.write(frame, 1)
    for peer in range(10):
        assert endpoint.answer(frame, peer) is not None
        assert endpoint.answer(b"junk", f"stranger {peer}") is None
    assert endpoint.stats().peers == 3
    assert endpoint.answer(frame, 9) is None


def test_the_key_of_another(cut: rt.Cut) -> None:
    endpoint = Endpoint.of(cut, key=KEY)
    with pytest.raises(TimedOut):
        Remote.of(cut, Inside(endpoint))(torch.randn(2, 40), timeout_s=0.01)
    assert endpoint.stats().refused == {"digest": 1}


def test_late_and_forged_answers(cut: rt.Cut) -> None:
    class Held(Inside):
        def receive(self, timeout_s: float) -> Any:
            return super().receive(timeout_s) if self.open else None

    client = Held(Endpoint.of(cut))
    client.open = False
    remote = Remote.of(cut, client)
    with pytest.raises(TimedOut):
        remote(torch.randn(2, 40), timeout_s=0.01)
    client.open = True
    x = torch.randn(2, 40)
    assert torch.equal(remote(x), cut._whole(x))
    assert remote.stats().unasked == 1  # the first one's answer, which nobody waits for
    answer = Writer([np.ones((2, 40), np.float32)], cut.digest)
    frame = bytearray(answer.bytes)
    answer.write(frame, 3, kind="answer", session=1)
    client._answers.append(bytes(frame))
    answer.write(frame, 4, kind="answer", session=remote._writer.session)
    client._answers.append(bytes(frame))
    assert remote.take() is None
    assert remote.stats().refused == {"session": 1}
    assert remote.stats().unasked == 2


def test_numbers_that_the_model_refuses() -> None:
    fast = rt.compile(nn.Embedding(5, 3).eval(), torch.zeros(1, 2, dtype=torch.int64))
    endpoint = Endpoint(fast, (torch.zeros(1, 2, dtype=torch.int64),))
    remote = Remote(Inside(endpoint), [((1, 2), "int64")], [((1, 2, 3), "float32")], endpoint.digest)
    assert torch.equal(remote(torch.tensor([[1, 4]])), fast(torch.tensor([[1, 4]])))
    with pytest.raises(FormatError):
        remote(torch.tensor([[1, 5]]))
    assert (endpoint.stats().failed, remote.stats().failed) == (1, 1)
    assert torch.equal(remote(torch.tensor([[0, 2]])), fast(torch.tensor([[0, 2]])))


def test_a_file_answers(cut: rt.Cut, tmp_path: Path) -> None:
    path = cut.save_cloud(tmp_path / "cloud.rta")
    remote, x = Remote.of(cut, Inside(Endpoint.load(path, batch=2))), torch.randn(2, 40)
    assert torch.equal(remote(x), cut._whole(x))
    stream = rt.save(rt.stream(nn.GRU(3, 4, batch_first=True).eval(), torch.randn(1, 3)), tmp_path / "s.rta")
    with pytest.raises(FormatError):
        Endpoint.load(stream)


def test_what_does_not_fit(cut: rt.Cut) -> None:
    remote = Remote.of(cut, Inside(Endpoint.of(cut)))
    for bad in (torch.randn(3, 40), torch.randn(2, 41), torch.randn(2, 40).double()):
        with pytest.raises(ShapeError):
            remote(bad)
    assert remote.stats().sent == 0
    x = torch.randn(2, 40)
    assert torch.equal(remote(x), cut._whole(x))
    whole = Endpoint(rt.compile(nn.Linear(20000, 4).eval(), torch.zeros(1, 20000)), (torch.zeros(1, 20000),))
    with pytest.raises(ShapeError, match="datagram"):
        UdpServer(whole)
    with pytest.raises(ShapeError, match="datagram"):
        Remote(UdpClient(("127.0.0.1", 9)), [((1, 20000), "float32")], [((1, 4), "float32")], whole.digest)
    for address in ("127.0.0.1", ("127.0.0.1", "9"), ("127.0.0.1", 70000), 5):
        with pytest.raises(FormatError):
            UdpClient(address)  # type: ignore[arg-type]
    with pytest.raises(FormatError):
        Endpoint.of(cut, max_peers=0)


def test_nobody_is_there(cut: rt.Cut) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with Remote.of(cut, UdpClient(("127.0.0.1", port))) as remote:
        for _ in range(3):
            with pytest.raises(TimedOut):
                remote(torch.randn(2, 40), timeout_s=0.05)
