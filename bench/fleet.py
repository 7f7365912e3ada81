"""A fleet on paper and in a simulation: a thousand nodes that serve a million edges, with what goes wrong.

    python -m bench.fleet [--nodes 1000] [--rate 200] [--seconds 2] [--seed 0] [--json FILE]
    python -m bench.fleet --paper [--edges 1000000] [--nodes 1000] [--hz 100] ...

The simulation runs on a clock of its own (a heap of events), so its figures are the same on every machine. A request goes to
its stream's node over a link (log-normal, each way), waits in the node's batcher, and comes back. A batch goes as late as its
deadline allows by cost(n) = a + b n, as in rt.StreamBatcher. A node steps one batch at a time. A stream has one slot, so a newer
sample replaces an older one, whose answer nobody wants any more. Where no answer has come by the deadline an edge takes that of
its own, smaller model, as rt.Hedged does: "local". Streams find their nodes by rendezvous hashing over the nodes that the
directory has. It learns of a dead one after --detect seconds. A stream whose node has changed starts anew: "moved".

    steady     nothing goes wrong
    loss       5 % of the nodes die at once
    hot        1 % of the streams send 20 times as often
    restart    a rollout that restarts nodes, 5 % of them at a time, announced to the directory
    swap       a rollout by swap of weights: packed on another core, and the first batch after it is twice as dear

--paper prints, with its coefficients as options, what an inference costs in bytes and joules where it is made.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bench.fleet_paper import add_paper_options, paper

ARRIVE, LEAVE, EVENT = range(3)
SCENARIOS = ("steady", "loss", "hot", "restart", "swap")
STREAMS_A_NODE = 50


@dataclass
class Fleet:
    """Seconds. link: median of one way, and sigma of its logarithm."""

    nodes: int = 1000
    rate: float = 200.0  # requests per node and second
    seconds: float = 2.0
    seed: int = 0
    deadline: float = 20e-3
    link: tuple[float, float] = (2e-3, 0.5)
    cost: tuple[float, float] = (30e-6, 0.25e-6)  # of a batch: bench.streams, Zen 3, 2026-11
    margin: float = 100e-6
    detect: float = 0.3


@dataclass
class Node:
    alive: bool = True
    busy_until: float = 0.0
    planned: float = float("inf")  # of the LEAVE event that counts
    factor: float = 1.0  # of the next batch's cost
    slots: dict[int, tuple[float, float]] = field(default_factory=dict)  # stream -> (sent, arrived)


@dataclass
class Outcome:
    """Milliseconds are of answers that came from the fleet, from sending to having it."""

    scenario: str
    sent: int = 0
    local: int = 0
    replaced: int = 0
    moved: int = 0
    batches: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    p99_trouble_ms: float = 0.0  # the same, of requests sent while something went wrong
    local_trouble: float = 0.0


class Directory:
    """stream -> node, by rendezvous hashing: a node that goes moves its own streams alone."""

    def __init__(self, nodes: int, streams: int) -> None:
        rng = np.random.default_rng(12345)
        # The first eight choices of each stream stand for its ranking of all nodes.
        self.ranked = rng.integers(0, nodes, (streams, 8))
        self.known = np.ones(nodes, bool)
        self.at = self.ranked[:, 0].copy()

    def update(self) -> int:
        """Streams that have another node now."""
        first = np.argmax(self.known[self.ranked], axis=1)
        now = self.ranked[np.arange(len(first)), first]
        moved = int(np.count_nonzero(now != self.at))
        self.at = now
        return moved


def simulate(fleet: Fleet, scenario: str) -> Outcome:
    rng = np.random.default_rng(fleet.seed)
    out, streams = Outcome(scenario), fleet.nodes * STREAMS_A_NODE
    directory, nodes = Directory(fleet.nodes, streams), [Node() for _ in range(fleet.nodes)]
    weight = np.ones(streams)
    if scenario == "hot":
        weight[rng.choice(streams, streams // 100, replace=False)] = 20.0
    count = rng.poisson(fleet.rate * fleet.nodes * fleet.seconds * weight.mean())
    sent = np.sort(rng.uniform(0, fleet.seconds, count))
    who = rng.choice(streams, count, p=weight / weight.sum())
    there, back = (fleet.link[0] * rng.lognormal(0, fleet.link[1], count) for _ in range(2))
    events: list[tuple[float, int, int, int]] = []  # (time, what, node or number, request)
    begin, end = trouble(fleet, scenario, events, rng)
    latency, replaced = np.full(count, np.inf), np.zeros(count, bool)
    a, b = fleet.cost
    reserve = fleet.link[0] * float(np.exp(3.1 * fleet.link[1]))  # for the way back: 99.9 % take less
    request_of: dict[tuple[int, int], int] = {}

    def cost(node: Node) -> float:
        return (a + b * len(node.slots)) * node.factor

    def plan(number: int, now: float) -> None:
        """When the node's next batch goes: as late as the oldest sample allows."""
        node = nodes[number]
        if not node.slots:
            return
        due = min(s for s, _ in node.slots.values()) + fleet.deadline - reserve
        at = max(now, node.busy_until, due - cost(node) - fleet.margin)
        node.planned = at
        heapq.heappush(events, (at, LEAVE, number, 0))

    upcoming = 0
    while events or upcoming < count:
        if upcoming < count and (not events or sent[upcoming] <= events[0][0]):
            r = upcoming
            upcoming += 1
            number = int(directory.at[who[r]])
            heapq.heappush(events, (float(sent[r] + there[r]), ARRIVE, number, r))
            continue
        now, what, number, r = heapq.heappop(events)
        if what == EVENT:
            happen(directory, nodes, out, number, r)
            continue
        node = nodes[number]
        if what == ARRIVE:
            if not node.alive:
                continue
            stream = int(who[r])
            before = node.slots.get(stream)
            if before is not None and before[0] >= sent[r]:
                replaced[r] = True
                continue
            if before is not None:
                replaced[request_of[number, stream]] = True
            node.slots[stream] = float(sent[r]), now
            request_of[number, stream] = r
            if before is None:
                plan(number, now)
        elif what == LEAVE:
            if not node.alive or now != node.planned or not node.slots:
                continue
            took = cost(node)
            node.busy_until, node.factor, node.planned = now + took, 1.0, float("inf")
            for stream in node.slots:
                done = request_of.pop((number, stream))
                latency[done] = now + took + back[done] - sent[done]
            node.slots.clear()
            out.batches += 1
    in_time = latency <= fleet.deadline
    local, wrong = ~in_time & ~replaced, (sent >= begin) & (sent <= end) & ~replaced
    out.sent, out.local, out.replaced = count, int(np.count_nonzero(local)), int(np.count_nonzero(replaced))
    milliseconds = latency[in_time] * 1e3
    out.p50_ms, out.p99_ms, out.p999_ms = (float(q) for q in np.quantile(milliseconds, (0.5, 0.99, 0.999)))
    if wrong.any():
        out.p99_trouble_ms = float(np.quantile(np.minimum(latency[wrong], fleet.deadline) * 1e3, 0.99))
        out.local_trouble = float(np.mean(local[wrong]))
    return out


def trouble(
    fleet: Fleet, scenario: str, events: list[tuple[float, int, int, int]], rng: np.random.Generator
) -> tuple[float, float]:
    """Events of a scenario, as (time, EVENT, node, what): when they begin and end."""
    start, wave = fleet.seconds * 0.2, max(fleet.nodes // 20, 1)
    order = rng.permutation(fleet.nodes)
    if scenario == "loss":
        for number in order[:wave]:
            heapq.heappush(events, (start, EVENT, int(number), 0))
        heapq.heappush(events, (start + fleet.detect, EVENT, -1, 1))
        return start, start + fleet.detect
    if scenario == "restart":
        step = fleet.seconds * 0.7 / 20
        for i, number in enumerate(order):
            at = start + i // wave * step
            heapq.heappush(events, (at - 2 * fleet.link[0], EVENT, int(number), 2))
            heapq.heappush(events, (at + fleet.link[0], EVENT, int(number), 0))
            heapq.heappush(events, (at + 0.8 * step, EVENT, int(number), 3))
        for i in range(21):
            heapq.heappush(events, (start + i * step - fleet.link[0], EVENT, -1, 4))
        return start, fleet.seconds * 0.95
    if scenario == "swap":
        for i, number in enumerate(order):
            heapq.heappush(events, (start + i * fleet.seconds * 0.7 / fleet.nodes, EVENT, int(number), 5))
        return start, fleet.seconds * 0.9
    return (0.0, fleet.seconds) if scenario == "hot" else (np.inf, np.inf)


def happen(directory: Directory, nodes: list[Node], out: Outcome, number: int, what: int) -> None:
    if what == 0:  # dies, with all that waits
        nodes[number].alive = False
        nodes[number].slots.clear()
    elif what == 1:  # the dead are found
        directory.known = np.array([node.alive for node in nodes])
        out.moved += directory.update()
    elif what == 2:  # announced: no new requests
        directory.known[number] = False
    elif what == 3:  # back
        nodes[number] = Node()
        directory.known[number] = True
    elif what == 4:
        out.moved += directory.update()
    elif what == 5:
        nodes[number].factor = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per node and second")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--detect", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--paper", action="store_true")
    add_paper_options(parser)
    given = parser.parse_args()
    if given.paper:
        paper(given)
        return
    fleet = Fleet(given.nodes, given.rate, given.seconds, given.seed, detect=given.detect)
    streams = fleet.nodes * STREAMS_A_NODE
    print(f"{fleet.nodes:,} nodes, {streams:,} streams, {fleet.rate:g} requests a node and second, {fleet.seconds:g} s")
    columns = "".join(f"{name:>10}" for name in ("sent", "local", "p50 ms", "p99 ms", "p99.9 ms", "replaced", "moved"))
    print(f"{'':8}{columns}   while it goes wrong")
    found = [simulate(fleet, scenario) for scenario in SCENARIOS]
    for o in found:
        wrong = "" if o.scenario == "steady" else f"p99 {o.p99_trouble_ms:.2f} ms, local {o.local_trouble:.2%}"
        print(
            f"{o.scenario:8}{o.sent:10,}{o.local / o.sent:10.3%}{o.p50_ms:10.2f}{o.p99_ms:10.2f}{o.p999_ms:10.2f}"
            f"{o.replaced:10,}{o.moved:10,}   {wrong}"
        )
    if given.json:
        given.json.write_text(json.dumps([asdict(o) for o in found], indent=1))


if __name__ == "__main__":
    main()
