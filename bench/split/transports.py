"""What UDP, zenoh, gRPC and Ray Serve add to a call over loopback, beside the floor of each library: as many bytes there and
back, from Python, with nothing done to them.

    python -m bench.split.transports [--calls 3000] [--alone] [--ray] [--json FILE]

Each call is made beside one of the same model here, which is subtracted. All in one process, the other ends in processes of their
own. In turn: each call finds the caches and the sleep of the others. With --alone a kind's calls follow each other, in ten rows.
"in this process" is what frames and checks take without a socket. "udp, spinning" looks for datagrams for 200 us before it
sleeps, at both ends: what is left of the floor's two wake-ups.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from bench.split import bare
from rtaccel.serve.remote import Endpoint, Inside, Remote, TimedOut
from rtaccel.serve.remote.udp import UdpClient, UdpServer


def answering(kind: str, ready: Any, stop: Any) -> None:
    """An endpoint of a small model, or a bare echo."""
    torch.set_num_threads(1)
    if kind in bare.KINDS:
        bare.echo(kind, ready, stop)
        return
    endpoint = Endpoint(small(), (torch.zeros(1, 64),))
    with _server(kind, endpoint) as server:
        ready.put((getattr(server, "address", KEY), endpoint.digest))
        stop.wait()


KEY = "rtaccel/bench/split"
SPIN_US = 200.0
ROUNDS = 10


def _server(kind: str, endpoint: Endpoint) -> Any:
    if kind == "zenoh":
        from rtaccel.serve.remote.zenoh import ZenohServer

        return ZenohServer(endpoint, KEY)
    if kind in ("grpc", "grpc, calls"):
        from rtaccel.serve.remote.grpc import GrpcServer

        return GrpcServer(endpoint)
    return UdpServer(endpoint, spin_us=SPIN_US if kind == "udp, spinning" else 0)


def _client(kind: str, address: Any) -> Any:
    if kind == "zenoh":
        from rtaccel.serve.remote.zenoh import ZenohClient

        return ZenohClient(address)
    if kind in ("grpc", "grpc, calls"):
        from rtaccel.serve.remote.grpc import GrpcClient

        return GrpcClient(address, stream=kind == "grpc")
    return UdpClient(tuple(address), spin_us=SPIN_US if kind == "udp, spinning" else 0)


def small() -> Any:
    torch.manual_seed(0)
    return rt.compile(nn.Linear(64, 64).eval(), torch.zeros(1, 64), verify=False)


@contextlib.contextmanager
def on_ray(wanted: bool) -> Iterator[dict[str, Any]]:
    """A deployment of one replica, called through its handle."""
    if not wanted:
        yield {}
        return
    from rtaccel.serve.ray import Deployment

    x = torch.randn(1, 64).numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = rt.save(small(), Path(folder) / "small.rta")
        Deployment.join()
        with Deployment(file, replicas=(1, 1), actor_options={"num_cpus": 0.5}) as deployment:
            yield {"ray serve": lambda: deployment.infer(x)}


def transports(calls: int, ray: bool, alone: bool = False) -> dict[str, Any]:
    """What a call takes beyond the same call here; 256 bytes of numbers there and back. alone: in rows, else in turn."""
    with on_ray(ray) as more:
        return _transports(calls, more, alone)


def _transports(calls: int, more: dict[str, Any], alone: bool) -> dict[str, Any]:
    context, fast, x = multiprocessing.get_context("spawn"), small(), torch.randn(1, 64)
    torch.set_num_threads(1)
    kinds = (*bare.KINDS, "in this process", "udp", "udp, spinning", "zenoh", "grpc", "grpc, calls")
    asks: dict[str, Any] = {}
    ends: list[Any] = []
    finishing: list[Any] = []
    for kind in kinds:
        if kind == "in this process":
            endpoint = Endpoint(fast, (torch.zeros(1, 64),))
            client, digest = Inside(endpoint), endpoint.digest
        else:
            ready, stop = context.Queue(), context.Event()
            process = context.Process(target=answering, args=(kind, ready, stop), daemon=True)
            process.start()
            ends.append((process, stop))
            address, digest = ready.get(timeout=120)
            if kind in bare.KINDS:
                asks[kind], finish = bare.asking(kind, address)
                finishing.append(finish)
                continue
            client = _client(kind, address)
        remote = Remote(client, [((1, 64), "float32")], [((1, 64), "float32")], digest)
        for _ in range(50):  # zenoh needs a moment to find its peer
            try:
                remote(x, timeout_s=1)
                break
            except TimedOut:
                continue
        asks[kind] = lambda remote=remote: remote(x, timeout_s=10)
    asks |= more
    for ask in asks.values():
        for _ in range(50):
            ask()
    taken: dict[str, list[float]] = {kind: [] for kind in asks}
    turns, rows = list(asks.items()), max(1, calls // ROUNDS) if alone else 1
    for _ in range(calls // rows):
        random.shuffle(turns)  # else each finds the caches and the sleep of another
        for kind, ask in turns:
            for _ in range(rows):
                start = time.perf_counter_ns()
                fast(x)
                middle = time.perf_counter_ns()
                ask()
                taken[kind].append((time.perf_counter_ns() - middle - (middle - start)) / 1e3)
    for finish in finishing:
        finish()
    for _, end in ends:
        end.set()
    for process, _ in ends:
        process.join(30)
    found = {}
    for kind, us in taken.items():
        us.sort()
        found[kind] = {"p50_us": us[len(us) // 2], "p5_us": us[len(us) // 20], "p99_us": us[len(us) * 99 // 100]}
        print(f"{kind:16} added us: " + "  ".join(f"{k[:-3]} {v:.1f}" for k, v in found[kind].items()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--alone", action="store_true", help="each kind's calls in rows, ten of them")
    parser.add_argument("--ray", action="store_true", help="Ray Serve too: it starts a cluster")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = transports(args.calls, args.ray, args.alone)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
