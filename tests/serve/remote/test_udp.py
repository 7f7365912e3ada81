"""Datagrams in native code: no GIL on the way, the model is the server's while it runs, and what comes back is the model's."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.serve.frames import Writer
from rtaccel.serve.remote import Endpoint, Inside, Remote
from rtaccel.serve.remote.udp import UdpClient, UdpServer

SPECS = [((1, 6), "float32")], [((1, 4), "float32")]


def linear() -> Any:
    torch.manual_seed(0)
    return rt.compile(nn.Linear(6, 4).eval(), torch.zeros(1, 6))


CHILD = """
import sys
import numpy as np
import torch
from rtaccel.serve.remote import Remote
from rtaccel.serve.remote.udp import UdpClient

port, digest, done = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
said = b"n"
try:
    with Remote(UdpClient(("127.0.0.1", port)), [((1, 6), "float32")], [((1, 4), "float32")], digest) as remote:
        for _ in range(50):
            remote(torch.ones(1, 6), timeout_s=60)
    said = b"y"
finally:
    import os
    os.write(done, said)
"""


def test_requests_are_answered_while_python_holds_the_gil() -> None:
    """This process reads from a pipe with the GIL held, until another has had all its answers."""
    fast = linear()
    endpoint = Endpoint(fast, (torch.zeros(1, 6),))
    assert endpoint.in_python == ""
    reads, writes = os.pipe()
    with UdpServer(endpoint) as server:
        arguments = [sys.executable, "-c", CHILD, str(server.address[1]), endpoint.digest.hex(), str(writes)]
        child = subprocess.Popen(
            arguments, pass_fds=(writes,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.close(writes)
        child.stdin.write("go\n")
        child.stdin.flush()
        said = ctypes.create_string_buffer(1)
        assert ctypes.PyDLL(None).read(reads, said, 1) == 1  # PyDLL keeps the GIL
        child.communicate(timeout=60)
    os.close(reads)
    assert said.raw == b"y"
    assert endpoint.stats().answered == 50


def test_the_model_is_the_servers_while_it_runs() -> None:
    fast = linear()
    x = torch.randn(1, 6)
    want, step = fast(x).clone(), fast.bind(x, out=torch.empty(1, 4))
    endpoint = Endpoint(fast, (torch.zeros(1, 6),))
    other = Endpoint(fast, (torch.zeros(1, 6),))
    with UdpServer(endpoint) as server, UdpServer(endpoint) as second:  # one endpoint may have several
        for call in (lambda: fast(x), step, lambda: fast.run(x, out=torch.empty(1, 4))):
            with pytest.raises(UnsupportedProblem, match="a model of its own for each thread"):
                call()
        with pytest.raises(UnsupportedProblem, match="running loop or server"):
            UdpServer(other).start()
        for address in (server.address, second.address):
            with Remote(UdpClient(address), *SPECS, endpoint.digest) as remote:
                assert torch.equal(remote(x, timeout_s=60), want)
        with Remote(Inside(endpoint), *SPECS, endpoint.digest) as remote:  # it may be asked from Python too
            assert torch.equal(remote(x), want)
        with Remote(Inside(other), *SPECS, other.digest) as remote, pytest.raises(FormatError):
            remote(x)
    assert torch.equal(fast(x), want)
    step()
    with UdpServer(other) as server, Remote(UdpClient(server.address), *SPECS, other.digest) as remote:
        assert torch.equal(remote(x, timeout_s=60), want)
    assert endpoint.stats().peers == 3 and other.stats().failed == 1


def test_a_model_with_a_call_of_torch_answers_too() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.warns(UserWarning, match="fall"):
        fast = rt.compile(Odd().eval(), torch.randn(1, 3, 3))
    example = torch.eye(3)[None]
    endpoint = Endpoint(fast, (example,), digest=bytes(32))
    assert "one native plan" in endpoint.in_python
    with UdpServer(endpoint) as server:
        specs = [((1, 3, 3), "float32")], [((1, 3), "float32")]
        with Remote(UdpClient(server.address), *specs, bytes(32)) as remote:
            for scale in (1.0, 2.5):
                assert torch.equal(remote(example * scale, timeout_s=60), fast(example * scale))


@pytest.mark.parametrize("spin_us", [0, 50])
def test_many_clients_at_once(spin_us: int) -> None:
    """Threads of Python against one server: each gets its own answers, all of them."""
    fast = linear()
    xs = torch.randn(6, 100, 1, 6)
    want = torch.stack([torch.stack([fast(x).clone() for x in mine]) for mine in xs])
    endpoint, found = Endpoint(fast, (torch.zeros(1, 6),)), torch.full_like(want, float("nan"))

    def ask(number: int, address: Any) -> None:
        with Remote(UdpClient(address, spin_us=spin_us), *SPECS, endpoint.digest) as remote:
            for i, x in enumerate(xs[number]):
                found[number, i] = remote(x, timeout_s=60)

    with UdpServer(endpoint, spin_us=spin_us) as server:
        threads = [threading.Thread(target=ask, args=(i, server.address)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert torch.equal(found, want)
    assert (endpoint.stats().answered, endpoint.stats().peers) == (600, 6)


def test_a_request_with_a_status_is_refused() -> None:
    """Its tensors would not be read, and the model would run on the last one's."""
    endpoint = Endpoint(linear(), (torch.zeros(1, 6),))
    writer = Writer([np.ones((1, 6), np.float32)], endpoint.digest)
    frame = bytearray(writer.bytes)
    writer.write(frame, 1, status=1)
    assert endpoint.answer(frame, "a") is None
    assert endpoint.stats().refused == {"kind": 1}
    writer.write(frame, 1)
    assert endpoint.answer(frame, "a") is not None


def test_a_refused_answer_has_nobodys_numbers() -> None:
    fast = rt.compile(nn.Embedding(5, 3).eval(), torch.zeros(1, 2, dtype=torch.int64))
    endpoint = Endpoint(fast, (torch.zeros(1, 2, dtype=torch.int64),))
    words = np.array([[1, 4]])
    writer = Writer([words], endpoint.digest)
    frame = bytearray(writer.bytes)
    writer.write(frame, 1)
    assert any(endpoint.answer(frame, "a")[104:])  # type: ignore[index]
    words[:] = 7
    writer.write(frame, 1)
    answer = endpoint.answer(frame, "b")
    assert answer is not None and not any(answer[104:])


def test_what_does_not_fit() -> None:
    for spin in (-1, float("nan"), "long", True, 2e6):
        with pytest.raises(FormatError, match="spin_us"):
            UdpClient(("127.0.0.1", 9), spin_us=spin)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match="spin_us"):
            UdpServer(Endpoint(linear(), (torch.zeros(1, 6),)), spin_us=spin)  # type: ignore[arg-type]
    client = UdpClient(("127.0.0.1", 9))
    remote = Remote(client, *SPECS, bytes(32))
    remote.close()
    for _ in range(2):
        with pytest.raises(UnsupportedProblem, match="closed"):
            remote(torch.zeros(1, 6))


def test_stopping_twice_and_beside_requests() -> None:
    fast = linear()
    endpoint = Endpoint(fast, (torch.zeros(1, 6),))
    for _ in range(5):
        server = UdpServer(endpoint).start()
        with Remote(UdpClient(server.address), *SPECS, endpoint.digest) as remote:
            for _ in range(20):
                remote.post(torch.zeros(1, 6))
            server.stop()
            server.stop()
    assert torch.equal(fast(torch.zeros(1, 6)), fast(torch.zeros(1, 6)))
