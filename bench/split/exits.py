"""Early exits over two processes and an emulated link: does a call take, in the mean, what rt.split foretold, and is what it
foretold sent?

    python -m bench.split.exits [--share 0.6] [--slower 40] [--links wlan,far] [--json FILE]

The network gives an answer behind its convolutions and one behind wide layers. The limit is set so that about so many rows leave.
The calls are the calibration data: of others a share of 60 % in 100 calls would be off by 5 % by chance, and the bytes with it.
The link, the cloud and the slower edge are those of bench.split. Every cut that may be chosen is measured with the same calls, in
turn. A figure is the least of the calls that ended on the edge and the least of those that went on, by the share of each in the
run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from bench.split.links import LINKS, Shaped, ask, planned, serve, slower, this_machine
from rtaccel.serve.remote import Remote
from rtaccel.serve.remote.udp import UdpClient
from rtaccel.serve.split.early import EarlyEdge


class Branching(nn.Module):
    """Convolutions with a small head, then wide layers with the large one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)
        )  # fmt: skip
        self.small = nn.Linear(32, 10)
        self.wide = nn.Sequential(
            nn.Conv2d(32, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 256, 3, padding=1), nn.ReLU()
        )
        self.large = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x)
        return self.small(h.mean((2, 3))), self.large(self.wide(h).mean((2, 3)))


def data(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64) * torch.rand(count, 1, 1, 1) * 4


def limit_for(model: nn.Module, share: float) -> float:
    """Of the confidence, which so large a share of the data passes."""
    with torch.no_grad():
        return float(model(data(400))[0].softmax(1).amax(1).quantile(1.0 - share))


def measured(cut: rt.Cut, link: rt.Link, given: torch.Tensor, times: int) -> list[tuple[Any, float, float]]:
    """(row, microseconds in the mean, bytes sent in the mean) of every cut that may be chosen."""
    cuts = [cut.other(row) for row in cut.front if not row.why_not]
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Queue(), context.Event()
    calls = len(given)
    with tempfile.TemporaryDirectory() as folder:
        sent = [c for c in cuts if c.cloud is not None]
        files = [(str(c.save_cloud(Path(folder) / f"{i}.rta")), c.best.scheme) for i, c in enumerate(sent)]
        process = context.Process(target=serve, args=(files, ready, stop), daemon=True)
        process.start()
        try:
            addresses = dict(zip(map(id, sent), ready.get(timeout=120)))
            remotes = {
                id(c): Remote(Shaped(UdpClient(addresses[id(c)]), link, i), c.sent, c.answered, c.digest,
                              wire=c.best.scheme, before=slower(c, times), after=c.after)
                for i, c in enumerate(sent)
            }  # fmt: skip
            ended: dict[int, list[float]] = {id(c): [] for c in cuts}
            went: dict[int, list[float]] = {id(c): [] for c in cuts}
            for x in given.split(1):
                for c in cuts:
                    start = time.perf_counter()
                    if c.cloud is None:
                        sent_to, made = slower(c, times)((x,))
                        c.after((x,), made, ())
                        early = isinstance(c.edge, EarlyEdge) and made.sure and sent_to is None
                    else:
                        here = remotes[id(c)].stats().here
                        ask(remotes[id(c)], x, 1.0)
                        early = remotes[id(c)].stats().here > here
                    (ended if early else went)[id(c)].append((time.perf_counter() - start) * 1e6)
            found = []
            for c in cuts:
                share = len(ended[id(c)]) / calls
                us = sum(
                    part * min(times_) for part, times_ in ((share, ended[id(c)]), (1 - share, went[id(c)])) if times_
                )
                frames = remotes[id(c)].stats().sent if c.cloud is not None else 0
                found.append((c.best, us, frames * c.best.wire_bytes / calls))
            return found
        finally:
            stop.set()
            process.join(30)


def one_link(name: str, link: rt.Link, share: float, calls: int, times: int) -> dict[str, Any]:
    torch.manual_seed(0)
    here, loopback = this_machine()
    edge = replace(here.scaled(times), frame_us={k: (a / times, b / times) for k, (a, b) in here.frame_us.items()})
    model, given = Branching().eval(), data(calls)
    cut = rt.split(model, data(1), planned(link, loopback), edge, here, exit=[limit_for(model, share)], calibration=[given],
                   budget=rt.Budget(max_error=1e9))  # fmt: skip
    rows = measured(cut, link, given, times)
    chosen = next(us for row, us, _ in rows if (row.at, row.scheme) == (cut.best.at, cut.best.scheme))
    best = min(rows, key=lambda r: r[1])
    off = [abs(row.us / us - 1) for row, us, _ in rows]
    at = f"{cut.best.at} {cut.best.scheme}"
    print(
        f"{name}: chosen {at}, {cut.best.exits:.0%} leave early; predicted {cut.best.us:.0f}, measured {chosen:.0f} us"
        f" ({cut.best.us / chosen - 1:+.1%}); best measured {best[0].at} {best[0].scheme}, {best[1]:.0f} us;"
        f" all cuts off by {statistics.median(off):.1%} in the middle, {max(off):.1%} at most"
    )
    for row, us, sent in rows:
        print(
            f"    {row.at:2} {row.after:12} {row.scheme:8} exits {row.exits:4.0%}  predicted {row.us:9.0f}  measured {us:9.0f} us"
            f"  bytes {row.sent_bytes:7.0f}  sent {sent:7.0f}"
        )
    return {"link": vars(link), "rows": [{**row.to_dict(), "measured_us": us, "sent": sent} for row, us, sent in rows]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--slower", type=int, default=40, help="how many times slower the edge is")
    parser.add_argument("--links", default="lan,wlan,far")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: one_link(name, LINKS[name], args.share, args.calls, args.slower) for name in args.links.split(",")}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
