"""What a host would wait for an answer where requests wait for each other: an event-driven simulation of the link and of L2.

The link, the host's memory and a slice of L2 serve one request at a time. So polls are in the way of the message that they look
for, of its answer, and of other kernels. `bench.device.predictions` adds independent delays instead, and has no such effect.

Requests of a look follow each other closely: the head of a train goes on while its tail is served. Between an answer and the next
message a host waits for a random time of up to two round trips, so that polls and messages have no phase in common.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

LINE_BYTES, WORD_BYTES = 128, 8


@dataclass(frozen=True)
class Service:
    """us of one request. request: a read, on its way to the host. memory: at the host's memory. line: 128 bytes on the link.
    slice: a line of L2. Estimates: 45 and 23 GB/s over the link, 64 and 32 bytes a cycle of a slice. skew: from the first block
    that has its part of a vector to the last, some stalls of a warp."""

    request: float
    memory: float
    line: float
    slice: float
    skew: float = 0.0


LOW, HIGH = Service(0.0006, 0.0025, 0.0028, 0.00114, 0.05), Service(0.0012, 0.006, 0.0056, 0.00228, 0.15)


@dataclass
class Server:
    free: float = 0.0

    def train(self, head: float, tail: float, each: float, number: int) -> tuple[float, float, float]:
        """Of requests whose first and last come at these times: (when the first is served, when it and the last go on)."""
        start = max(head, self.free)
        end = max(start + each * number, tail + each)
        self.free = end
        return start, start + each, end


@dataclass(frozen=True)
class Kernel:
    """pollers: warps. in_turn: each has all of a message in its look, and they begin a part of a round trip apart. Else each has
    a part of it, and the block waits for all. requests: of a look of one warp. replies: lines of an answer. work: us from the
    message in the card to its answer on the way, drawn for each message. early: lines of the answer that leave before the others,
    and us by which they do."""

    pollers: int
    in_turn: bool
    requests: int
    replies: int
    work: Callable[[np.random.Generator], float]
    early: tuple[int, float] = (0, 0.0)


def lines_of(words: int) -> int:
    return -(-words * WORD_BYTES // LINE_BYTES)


@dataclass
class _State:
    """written: when the newest message was. sequence: of it; wanted: that polls look for."""

    of: Kernel
    written: float = 0.0
    sequence: int = 0
    wanted: int = 1
    began: float = -1e9
    span: float = 0.0
    missing: set[int] = field(default_factory=set)
    us: list[float] = field(default_factory=list)


def calls(
    kernels: list[Kernel], link_us: float, host_us: float, service: Service, messages: int, rng: np.random.Generator
) -> np.ndarray:
    """float64 [messages]: us of the first kernel's calls, while every other one is called as well, each by a host of its own."""
    events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
    number, out, memory, back = count(), Server(), Server(), Server()
    states = [_State(kernel) for kernel in kernels]

    def at(time: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(events, (time, next(number), what, arguments))

    def send(state: _State, now: float) -> None:
        state.sequence += 1
        state.written = now

    def look(state: _State, poller: int, now: float) -> None:
        of = state.of
        if of.in_turn:
            soonest = state.began + state.span / of.pollers
            if now < soonest:
                at(soonest, look, state, poller, soonest)
                return
            state.began = now
        _, head, tail = out.train(now, now, service.request, of.requests)
        at(head + link_us, arrive, state, poller, now, head + link_us, tail + link_us)

    def arrive(state: _State, poller: int, began: float, head: float, tail: float) -> None:
        read, head, tail = memory.train(head, tail, service.memory, state.of.requests)
        there = state.sequence if read >= state.written else state.sequence - 1
        at(head, answer, state, poller, began, there, head, tail)

    def answer(state: _State, poller: int, began: float, there: int, head: float, tail: float) -> None:
        _, _, tail = back.train(head, tail, service.line, state.of.requests)
        at(tail + link_us, seen, state, poller, began, there, tail + link_us)

    def seen(state: _State, poller: int, began: float, there: int, now: float) -> None:
        of, wanted = state.of, state.wanted
        state.span = now - began
        if of.in_turn:
            if there == wanted:
                state.wanted += 1
                done = now + of.work(rng)
                if of.early[0]:
                    at(done - of.early[1], begin, of.early[0], done - of.early[1])
                at(done, reply, state, done)
            at(now, look, state, poller, now)
            return
        if there != wanted:
            at(now, look, state, poller, now)
            return
        state.missing.discard(poller)
        if not state.missing:
            done = now + of.work(rng)
            at(done, reply, state, done)

    def begin(lines: int, now: float) -> None:
        out.train(now, now, service.line, lines)

    def reply(state: _State, now: float) -> None:
        if not state.of.in_turn:
            state.wanted += 1
            restart(state, now)
        early = state.of.early[0] if state.of.in_turn else 0
        _, _, tail = out.train(now, now, service.line, state.of.replies - early)
        found = tail + link_us + host_us * (1 + rng.random())
        state.us.append(found - state.written)
        again = found + 4 * link_us * rng.random()
        at(again, send, state, again)

    def restart(state: _State, now: float) -> None:
        state.missing = set(range(state.of.pollers))
        for poller in range(state.of.pollers):
            at(now, look, state, poller, now)

    for i, state in enumerate(states):
        restart(state, 0.01 * i)
        first = 2 * link_us * (1 + rng.random())
        at(first, send, state, first)
    while len(states[0].us) < messages:
        _, _, what, arguments = heapq.heappop(events)
        what(*arguments)
    return np.asarray(states[0].us)


def exchange(blocks: int, words: int, writers: int, l2_us: float, service: Service, rng: np.random.Generator) -> float:
    """us until every block has all words of a vector, of which the first `writers` blocks have their parts from time 0 on. Each
    line has a slice of its own, and each block looks for it again until it is there. Where one block alone writes, the others
    have nothing to do before, and look all the while."""
    computed = service.skew * rng.random(blocks) if writers > 1 else np.zeros(blocks)
    waits = [-l2_us * (1 + rng.random()) if writers == 1 and block else computed[block] for block in range(blocks)]
    last = 0.0
    for line in range(lines_of(words)):
        owners = {w * writers // words for w in range(16 * line, min(16 * line + 16, words))}
        events = [(computed[owner] + l2_us / 2, 0, owner) for owner in owners]  # a store, or a look (1), at the slice
        events += [(waits[block] + l2_us / 2, 1, block) for block in range(blocks)]
        heapq.heapify(events)
        of_line, missing, stored = Server(), len(owners), 0.0
        while events:
            arrival, kind, block = heapq.heappop(events)
            start, end, _ = of_line.train(arrival, arrival, service.slice, 1)
            if kind == 0:
                missing, stored = missing - 1, end
            elif missing == 0 and start >= stored:
                last = max(last, end + l2_us / 2)
            else:
                heapq.heappush(events, (end + l2_us, 1, block))
    return last


RUNS = 40
"""Exchanges that are simulated, of which each message draws one."""


def exchanges(
    blocks: int, words: int, writers: int, l2_us: float, service: Service, rng: np.random.Generator
) -> np.ndarray:
    """float64 [RUNS]"""
    return np.asarray([exchange(blocks, words, writers, l2_us, service, rng) for _ in range(RUNS)])
