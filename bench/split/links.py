"""A model over two processes and five emulated links: is the cut that rt.split chooses the best of all, and does it take what
was predicted?

    python -m bench.split [--calls 40] [--slower 40] [--links lan,wlan] [--seconds 60] [--json FILE]

The cloud is a process of its own that answers over UDP, from files that `Cut.save_cloud` wrote. The link is emulated at the
client: a frame leaves when a token bucket of the link's width has let it through, and arrives half a round trip later; it is
lost with the link's share for each packet, and is then sent again after the time that the prediction assumes. The edge is made
slower by computing its half several times; how much slower that is, is measured as a profile of it would be. Every cut that a
frame can hold is measured, all of them in turn in each round. A figure is the least of the calls that lost nothing, as the times
of a profile are the least too, and the share of losses in the run times what one costs. Cuts near the least are measured on,
until they are told apart or the seconds are over: then they are called tied.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from bench.split import contest
from bench.split.contest import Way
from bench.split.transports import answering, small
from rtaccel.serve.remote import Endpoint, Remote, TimedOut
from rtaccel.serve.remote.udp import UdpClient, UdpServer
from rtaccel.serve.split.early import EarlyEdge
from rtaccel.serve.split.probes import REST_S

LINKS = {
    "lan": rt.Link(rtt_us=100, mb_s=100, most_bytes=65507),
    "wlan": rt.Link(rtt_us=2_000, mb_s=8, most_bytes=65507),
    "field radio": rt.Link(rtt_us=8_000, mb_s=0.5, most_bytes=65507),
    "lossy": rt.Link(rtt_us=1_000, mb_s=20, loss=0.01, most_bytes=65507),
    "far": rt.Link(rtt_us=60_000, mb_s=10, most_bytes=65507),
}


class Network(nn.Module):
    """Convolutions that send less the deeper they are, then wide layers: there is something to be gained on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return found


def until(when: float) -> None:
    """Waits for a moment of `perf_counter`, without being late by the scheduler's step."""
    while (left := when - time.perf_counter()) > 0:
        if left > 400e-6:
            time.sleep(left - 300e-6)


class Shaped:
    """A client behind an emulated link."""

    most_bytes = UdpClient.most_bytes

    def __init__(self, client: UdpClient, link: rt.Link, seed: int) -> None:
        self.client, self.link, self.random = client, link, random.Random(seed)
        self.lost = 0
        self.free = [0.0, 0.0]  # when each direction's bucket has let through what it was given

    def _through(self, direction: int, size: int) -> bool:
        now = time.perf_counter()
        self.free[direction] = max(now, self.free[direction]) + size / (self.link.mb_s or float("inf")) * 1e-6
        until(self.free[direction] + self.link.rtt_us * 0.5e-6)
        packets = -(-size // 1472)
        arrives = self.random.random() < (1 - self.link.loss) ** packets
        self.lost += not arrives
        return arrives

    def send(self, frame: memoryview) -> None:
        if self._through(0, len(frame)):
            self.client.send(frame)

    def receive(self, timeout_s: float) -> Any:
        found = self.client.receive(timeout_s)
        return found if found is not None and self._through(1, len(found)) else None

    def close(self) -> None:
        self.client.close()


def serve(files: list[tuple[str, str]], ready: Any, stop: Any) -> None:
    """The cloud: an endpoint for each file, at a port each."""
    torch.set_num_threads(1)
    servers = [UdpServer(Endpoint.load(path, wire=wire)).start() for path, wire in files]
    ready.put([server.address for server in servers])
    stop.wait()
    for server in servers:
        server.stop()


def slower(cut: rt.Cut, times: int) -> Any:
    """The edge's half, computed several times."""

    def before(inputs: Any) -> Any:
        for _ in range(times - 1):
            if isinstance(cut.edge, EarlyEdge):
                cut.edge.run(inputs)
            elif cut.edge is not None:
                cut.edge(*inputs)
        return cut.before(inputs)

    return before


def measured(
    cut: rt.Cut, link: rt.Link, calls: int, times: int, seconds: float, say: Any
) -> tuple[list[tuple[Any, Way]], list[Way]]:
    """(row, its measurement) of every cut that can be sent; the least of those that may be chosen, and what is tied with it."""
    most = UdpClient.most_bytes
    cuts = [cut.other(row) for row in cut.front if row.scheme == "none" or 0 < row.wire_bytes <= most]
    x = torch.randn(1, 3, 64, 64)
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Queue(), context.Event()
    with tempfile.TemporaryDirectory() as folder:
        sent = [c for c in cuts if c.cloud is not None]
        files = [(str(c.save_cloud(Path(folder) / f"{i}.rta")), c.best.scheme) for i, c in enumerate(sent)]
        process = context.Process(target=serve, args=(files, ready, stop), daemon=True)
        process.start()
        try:
            addresses = dict(zip(map(id, sent), ready.get(timeout=120)))
            ways = []
            for i, c in enumerate(cuts):
                if c.cloud is None:
                    ways.append(Way(partial(_alone, slower(c, times), x), link.resend_us))
                    continue
                client = Shaped(UdpClient(addresses[id(c)]), link, i)
                remote = Remote(
                    client, c.sent, c.answered, c.digest, wire=c.best.scheme, before=slower(c, times), after=c.after
                )
                ways.append(Way(partial(_asked, remote, client, x, _patience_us(link, c.best) * 1e-6), link.resend_us))
            may = [way for way, c in zip(ways, cuts) if not c.best.why_not]
            best = contest.run(ways, may, calls, seconds, say)
            return [(c.best, way) for c, way in zip(cuts, ways)], best
        finally:
            stop.set()
            process.join(30)


def _alone(local: Any, x: torch.Tensor) -> tuple[float, int]:
    start = time.perf_counter()
    local((x,))
    return (time.perf_counter() - start) * 1e6, 0


def _asked(remote: Remote, client: Shaped, x: torch.Tensor, patience_s: float) -> tuple[float, int]:
    lost, start = client.lost, time.perf_counter()
    ask(remote, x, patience_s)
    return (time.perf_counter() - start) * 1e6, client.lost - lost


def _patience_us(link: rt.Link, row: Any) -> float:
    """How long an answer is waited for before the request is sent again."""
    whole = row.edge_us + row.link_us + row.cloud_us
    return float(max(link.resend_us(whole) - row.edge_us, 2_000.0 + whole)) if link.loss else 5e6


def ask(remote: Remote, x: torch.Tensor, timeout_s: float) -> None:
    """Until there is an answer."""
    while True:
        try:
            remote(x, timeout_s=timeout_s)
            return
        except TimedOut:
            continue


def _bytes_us() -> float:
    """Microseconds that a byte takes over loopback, of datagrams that come back as they are."""
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=answering, args=("bare udp", ready, None), daemon=True)
    process.start()
    taken: dict[int, list[float]] = {256: [], 49152: []}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.connect(tuple(ready.get(timeout=120)[0]))
        for _ in range(300):
            for size, found in taken.items():
                until(time.perf_counter() + 1e-3)
                start = time.perf_counter()
                plain.send(bytes(size))
                plain.recv(65536)
                found.append((time.perf_counter() - start) * 1e6)
        plain.send(b"")
    process.join(30)
    few, many = (statistics.median(found) for found in taken.values())
    return max(0.0, (many - few) / (2 * (49152 - 256)))


@cache
def this_machine() -> tuple[rt.MachineProfile, tuple[float, float]]:
    """Its profile, and what a call through an endpoint takes over loopback beyond the model, and each byte: whoever measures the
    round trip and the width of a real link through an endpoint has that in them."""
    context, fast, x = multiprocessing.get_context("spawn"), small(), torch.randn(1, 64)
    ready, stop = context.Queue(), context.Event()
    process = context.Process(target=answering, args=("udp", ready, stop), daemon=True)
    process.start()
    address, digest = ready.get(timeout=120)
    taken = []
    client = Shaped(UdpClient(tuple(address)), rt.Link(rtt_us=0), 0)  # as it is asked below, in Python
    with Remote(client, [((1, 64), "float32")], [((1, 64), "float32")], digest) as remote:
        for _ in range(200):
            until(time.perf_counter() + REST_S)  # as a remote's stages are measured: the other end has gone to sleep
            start = time.perf_counter_ns()
            remote(x, timeout_s=10)
            middle = time.perf_counter_ns()
            fast(x)
            taken.append((middle - start - (time.perf_counter_ns() - middle)) / 1e3)
    stop.set()
    process.join(30)
    found, each = sorted(taken)[len(taken) // 4], _bytes_us()
    print(f"over loopback a call through an endpoint takes {found:.0f} us more, and {each * 1e3:.2f} ns for each byte")
    return rt.MachineProfile.here(), (found, each)


@cache
def slowness(times: int) -> float:
    """How much longer so many calls take after a rest than one among others, by the measure of a profile: the least of many. In a
    run an edge begins cold."""
    x = torch.randn(1, 3, 64, 64)
    fast = rt.compile(Network().eval(), x)
    taken: dict[int, list[float]] = {1: [], times: []}
    for _ in range(100):
        for count, found in taken.items():
            if count > 1:
                time.sleep(REST_S)
            start = time.perf_counter()
            for _ in range(count):
                fast(x)
            found.append(time.perf_counter() - start)
    return min(taken[times]) / min(taken[1])


def planned(link: rt.Link, loopback: tuple[float, float]) -> rt.Link:
    """A link as it is measured through an endpoint."""
    empty, each = loopback
    return replace(link, rtt_us=link.rtt_us + empty, mb_s=1 / ((1 / link.mb_s if link.mb_s else 0.0) + each))


def one_link(name: str, link: rt.Link, calls: int, times: int, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    here, loopback = this_machine()
    # Its half is computed several times, its frames are not.
    factor = slowness(times)
    edge = replace(here.scaled(factor), frame_us={k: (a / factor, b / factor) for k, (a, b) in here.frame_us.items()})
    cut = rt.split(Network().eval(), torch.randn(1, 3, 64, 64), planned(link, loopback), edge, here)
    rows, tied = measured(
        cut, link, calls, times, seconds, lambda text: print(text, end="", file=sys.stderr, flush=True)
    )
    chosen = next(way for row, way in rows if (row.at, row.scheme) == (cut.best.at, cut.best.scheme))
    best, best_row = tied[0], next(row for row, way in rows if way is tied[0])
    off = sorted(abs(row.us / way.us - 1) for row, way in rows)
    what = "best" if chosen is best and len(tied) == 1 else "tied" if chosen in tied else "slower"
    other = chosen if chosen is not best else tied[1] if len(tied) > 1 else None
    more = ""
    if other is not None:
        mean, width = contest.slower_by(other, best)
        more = f", {mean:.0f} +- {width:.0f} us less than {'the chosen' if other is chosen else 'the next'}"
    print(
        f"{name}: chosen {cut.best.at} {cut.best.scheme}, predicted {cut.best.us:.0f}, measured {chosen.us:.0f} us "
        f"({cut.best.us / chosen.us - 1:+.1%}); least measured: {best_row.at} {best_row.scheme}, {best.us:.0f} us in "
        f"{len(best.blocks)} blocks{more}: the chosen is {what}; all cuts off by "
        f"{statistics.median(off):.1%} in the middle, {off[-1]:.1%} at most"
    )
    for row, way in rows:
        at = f"{row.at:2} {row.after:12} {row.scheme:8} {row.wire_bytes:6} B"
        print(f"    {at}  predicted {row.us:9.0f}  measured {way.us:9.0f} us{'  tied' if way in tied[1:] else ''}")
    return {
        "link": vars(link), "chosen": cut.best.to_dict(), "measured_us": chosen.us, "best_us": best.us, "verdict": what,
        "best_at": [best_row.at, best_row.scheme],
        "rows": [{**row.to_dict(), "measured_us": way.us, "blocks": way.blocks} for row, way in rows],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--slower", type=int, default=40, help="how many times slower the edge is")
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of a link for telling the nearest cuts apart")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: one_link(name, LINKS[name], args.calls, args.slower, args.seconds) for name in args.links.split(",")}
    said = [f["verdict"] for f in found.values()]
    good = sum(abs(f["chosen"]["us"] / f["measured_us"] - 1) <= 0.15 for f in found.values())
    print(
        f"of {len(found)} links: the chosen cut was the best {said.count('best')} times, not told apart from it"
        f" {said.count('tied')}, slower {said.count('slower')}; predicted within 15 %: {good}"
    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
