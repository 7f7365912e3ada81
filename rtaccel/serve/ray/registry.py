"""Which replica has which stream, and which weights all of them serve: one actor of a deployment.

A stream is with one replica, or parked here as bytes, or unknown. A replica that is asked for a stream it does not have
claims it; the registry asks whoever has it to give it up, and answers the claim when that has happened. So no two
replicas ever step the same stream, and none is stepped from an old past. Replicas ask for their orders in one long call
after another, which is also how the registry knows that they live.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

ALIVE_S = 15.0
"""A replica that has not asked for orders for so long is dead, and what it had is lost."""
POLL_S = 2.0

Claim = tuple[str, Any]
"""("new", None), ("parked", state), ("unknown", None), ("lost", replica), ("held", replica): still there after the timeout."""


class Registry:
    """The state of a deployment. All methods run in one event loop, so each is atomic between its awaits."""

    def __init__(self, weights: Any) -> None:
        self.version, self.weights = 0, weights
        self.moves = self.lost = 0
        self._owner: dict[str, str] = {}
        self._parked: dict[str, bytes] = {}
        self._freed: dict[str, asyncio.Event] = {}  # set when a claimed stream is given up
        self._orders: dict[str, list[tuple[str, Any]]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._seen: dict[str, float] = {}
        self._acks: dict[tuple[str, int], asyncio.Future[str]] = {}
        self._serial = 0

    # -- replicas

    async def join(self, replica: str) -> tuple[int, Any]:
        """(version, weights) that a new replica is to serve."""
        self._orders[replica], self._news[replica] = [], asyncio.Event()
        self._seen[replica] = time.monotonic()
        return self.version, self.weights

    async def orders(self, replica: str) -> list[tuple[str, Any]]:
        """("give", stream), ("swap", (serial, weights, probe)), ("rollback", serial): as they come, or none after a while."""
        if replica not in self._orders:
            await self.join(replica)
        self._seen[replica] = time.monotonic()
        if not self._orders[replica]:
            try:
                await asyncio.wait_for(self._news[replica].wait(), POLL_S)
            except asyncio.TimeoutError:
                return []
        self._news[replica].clear()
        given, self._orders[replica] = self._orders[replica], []
        return given

    async def leave(self, replica: str, parked: dict[str, bytes]) -> None:
        """The end of a replica, with all that it still had."""
        for stream, state in parked.items():
            await self.park(stream, state, replica)
        self._orders.pop(replica, None)
        self._news.pop(replica, None)
        self._seen.pop(replica, None)

    async def replicas(self) -> list[str]:
        now = time.monotonic()
        return sorted(r for r, seen in self._seen.items() if now - seen < ALIVE_S)

    def _order(self, replica: str, what: str, about: Any) -> None:
        self._orders[replica].append((what, about))
        self._news[replica].set()

    # -- streams

    async def claim(self, stream: str, replica: str, start: bool, timeout_s: float) -> Claim:
        """The stream for a replica, which has it from the answer on where it is "new" or "parked"."""
        end = time.monotonic() + timeout_s
        while True:
            if stream in self._parked:
                self._owner[stream] = replica
                self.moves += 1
                return "parked", self._parked.pop(stream)
            owner = self._owner.get(stream)
            if owner is None:
                if not start:
                    return "unknown", None
                self._owner[stream] = replica
                return "new", None
            if owner == replica:  # given, and lost on the way
                return ("new", None) if start else ("lost", owner)
            if time.monotonic() - self._seen.get(owner, -ALIVE_S) >= ALIVE_S:
                del self._owner[stream]
                self.lost += 1
                if start:
                    continue
                return "lost", owner
            left = end - time.monotonic()
            if left <= 0:
                return "held", owner
            freed = self._freed.setdefault(stream, asyncio.Event())
            self._order(owner, "give", stream)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(freed.wait(), min(left, 0.2))  # who is busy with it is asked again

    async def park(self, stream: str, state: bytes | None, replica: str) -> None:
        """The replica has the stream no more. state None: it has ended."""
        if self._owner.get(stream) == replica:
            del self._owner[stream]
            if state is not None:
                self._parked[stream] = state
        freed = self._freed.pop(stream, None)
        if freed is not None:
            freed.set()

    # -- weights

    async def change(
        self, what: str, weights: Any, probe: Any, replicas: list[str], timeout_s: float
    ) -> dict[str, str]:
        """Orders a "swap" or "rollback" of all these replicas at once: what each said, empty where it was done."""
        self._serial += 1
        waiting = {}
        for replica in replicas:
            future = asyncio.get_running_loop().create_future()
            self._acks[replica, self._serial] = waiting[replica] = future
            if replica in self._orders:
                self._order(replica, what, (self._serial, weights, probe))
            else:
                future.set_result("it has left")
        await asyncio.wait(waiting.values(), timeout=timeout_s)
        for replica in replicas:
            self._acks.pop((replica, self._serial), None)
        return {r: f.result() if f.done() else f"no answer within {timeout_s:g} s" for r, f in waiting.items()}

    async def acknowledge(self, replica: str, serial: int, said: str) -> None:
        future = self._acks.get((replica, serial))
        if future is not None and not future.done():
            future.set_result(said)

    async def commit(self, weights: Any) -> int:
        """From now on new replicas begin with these."""
        self.version, self.weights = self.version + 1, weights
        return self.version

    async def numbers(self) -> dict[str, Any]:
        owned: dict[str, int] = {}
        for replica in self._owner.values():
            owned[replica] = owned.get(replica, 0) + 1
        return {
            "replicas": await self.replicas(), "streams": owned, "parked": len(self._parked), "moves": self.moves,
            "lost": self.lost, "version": self.version,
        }  # fmt: skip
