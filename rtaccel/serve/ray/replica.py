"""A model in a process of Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import ray
from ray import serve

from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.deploy.load import load
from rtaccel.serve.v2.refusals import Full, UnknownSequence
from rtaccel.serve.v2.request import Parameters, Request
from rtaccel.serve.v2.served import ServedModel

log = logging.getLogger("rtaccel.serve")


class Replica:
    """One of a deployment. Its methods are called through the handle of the deployment.

    registry: name of the registry's actor, in `namespace`. options: max_batch, threads, claim_s.
    """

    def __init__(self, name: str, registry: str, namespace: str, options: dict[str, Any]) -> None:
        self._registry = ray.get_actor(registry, namespace=namespace)
        self._me = serve.get_replica_context().replica_id.unique_id
        self._claim_s = options["claim_s"]
        self._claims: dict[str, list[Any]] = {}  # stream -> [lock, how many hold it or wait for it]
        _, weights = ray.get(self._registry.join.remote(self._me))
        model = load(ray.get(weights[0]), threads=options["threads"])
        self._served = ServedModel(name, name, model, options["max_batch"], 1e9)
        self._polls = asyncio.get_running_loop().create_task(self._obey())

    async def infer(self, inputs: tuple[np.ndarray, ...], timeout_us: int | None = None) -> tuple[np.ndarray, ...]:
        """A call of a model without a past."""
        return await self._served.infer(self._request(inputs, Parameters(timeout_us=timeout_us)), time.monotonic_ns())

    async def step(
        self, inputs: tuple[np.ndarray, ...], *, stream: str, start: bool = False, end: bool = False,
        timeout_us: int | None = None,
    ) -> tuple[np.ndarray, ...]:  # fmt: skip
        """A step of a stream, which comes here first where it is elsewhere."""
        request = self._request(inputs, Parameters(stream, start, end, timeout_us))
        arrived = time.monotonic_ns()
        tracks = self._served.sequences
        if tracks is None:
            raise FormatError("step", f"a stream of {self._served.name!r}, which has no past", "infer", "Call infer.")
        try:
            async with self._alone(stream):
                if tracks.find(stream) is None:
                    await self._fetch(stream, start)
                answer = asyncio.ensure_future(self._served.infer(request, arrived))
                await asyncio.sleep(0)  # it is among those that wait: the stream is not given away
            return await answer
        finally:
            await self._tidy(stream)

    async def _tidy(self, stream: str) -> None:
        """After a step: where the stream has ended, or has not begun after all, nobody has it."""
        tracks = self._served.sequences
        assert tracks is not None
        track = tracks.find(stream)
        if track is not None and (track.live or track.waiting):
            return
        async with self._alone(stream):
            track = tracks.find(stream)
            if track is not None:
                if track.live or track.waiting:
                    return
                tracks.close(track)
            await self._registry.park.remote(stream, None, self._me)

    @contextlib.asynccontextmanager
    async def _alone(self, stream: str) -> AsyncIterator[None]:
        """One at a time that brings or gives away a stream."""
        entry = self._claims.setdefault(stream, [asyncio.Lock(), 0])
        entry[1] += 1
        try:
            async with entry[0]:
                yield
        finally:
            entry[1] -= 1
            if not entry[1]:
                del self._claims[stream]

    def _request(self, inputs: tuple[np.ndarray, ...], parameters: Parameters) -> Request:
        ports = self._served.inputs
        if len(inputs) != len(ports):
            raise FormatError("infer", f"{len(inputs)} arrays", f"{len(ports)}", "Pass one for each input.")
        given = []
        for port, array in zip(ports, inputs):
            made = np.asarray(array)
            port.check(port.datatype if made.dtype == port.dtype else str(made.dtype), made.shape)
            given.append(np.ascontiguousarray(made))
        return Request(tuple(given), tuple(range(len(self._served.outputs))), parameters)

    async def _fetch(self, stream: str, start: bool) -> None:
        """The stream from wherever it is. Raises UnknownSequence and Full."""
        tracks = self._served.sequences
        assert tracks is not None
        found, state = await self._registry.claim.remote(stream, self._me, start, self._claim_s)
        if found in ("new", "parked"):
            try:
                await self._make_room()
                if found == "new":
                    tracks.open(stream, time.monotonic_ns())
                else:
                    self._served.adopt(stream, state)
            except RtaccelError:
                await self._registry.park.remote(stream, state, self._me)  # it is not lost
                raise
        elif found == "unknown":
            raise tracks.unknown(stream)
        elif found == "lost":
            raise UnknownSequence(
                "step", f"stream {stream!r}, which ended with its replica {state}", "one that goes on",
                "Start it again with start=True.",
            )  # fmt: skip
        elif found == "held":
            raise Full("step", f"stream {stream!r}, still with replica {state}", f"it within {self._claim_s:g} s",
                       "Send the next step after the answer of the last one.")  # fmt: skip

    async def _make_room(self) -> None:
        """Until there is a place: parks the stream whose last use is oldest, or waits for one. Raises Full after claim_s."""
        tracks = self._served.sequences
        assert tracks is not None
        end = time.monotonic() + self._claim_s
        while tracks.full:
            oldest = next((s for s in tracks if s not in self._claims), None)
            if oldest is not None:
                await self._give(str(oldest))
            elif time.monotonic() < end:
                await asyncio.sleep(0.002)
            else:
                got, most = f"one more stream on replica {self._me}", f"at most {tracks.streams} under way at once"
                raise Full("step", got, most, "Save the model with more streams, or allow more replicas.")

    async def _give(self, stream: str) -> None:
        async with self._alone(stream):
            state = self._served.give_up(stream)
            if state is not None:
                await self._registry.park.remote(stream, state, self._me)

    # -- orders of the registry

    async def _obey(self) -> None:
        while True:
            try:
                orders = await self._registry.orders.remote(self._me)
            except ray.exceptions.RayError:
                await asyncio.sleep(0.5)
                continue
            for what, about in orders:
                try:
                    if what == "give":
                        await self._give(about)
                    else:
                        await self._change(what, *about)
                except Exception:
                    log.exception("order %s", what)

    async def _change(self, what: str, serial: int, weights: Any, probe: Any) -> None:
        said = ""
        try:
            if what == "rollback":
                self._served.model.rollback()
            else:
                content = await weights[0]
                if probe is not None:
                    self._probe(content, probe)
                self._served.model.swap(content)
        except RtaccelError as error:
            said = str(error)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        await self._registry.acknowledge.remote(self._me, serial, said)

    def _probe(self, content: bytes, probe: tuple[tuple[np.ndarray, ...], Any]) -> None:
        """The new weights on the canary's inputs, in a model of its own. Raises FormatError for outputs as they should not be."""
        inputs, check = probe
        model = load(content)
        made = model.step(*inputs, streams=list(range(len(inputs[0])))) if model.streams else model(*inputs)
        outs = made if isinstance(made, tuple) else (made,)
        for out in outs:
            if not np.isfinite(out).all():
                raise FormatError("swap", "an output that is not finite", "finite outputs of the canary", "Mend them.")
        if check is not None and not check(*outs):
            raise FormatError("swap", "outputs that the check refuses", "a check that holds", "Mend the weights.")

    async def numbers(self) -> dict[str, Any]:
        counts = self._served.counts
        tracks = self._served.sequences
        return {"replica": self._me, "ok": counts.ok, "failed": counts.failed, "streams": len(tracks) if tracks else 0}

    async def __del__(self) -> None:
        """Ray Serve calls it when all requests are answered and the replica is to end: its streams go to the registry."""
        polls = getattr(self, "_polls", None)
        if polls is None:
            return
        polls.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polls
        await self._served.settle()
        tracks = self._served.sequences
        parked = {str(s): state for s in tracks or () if (state := self._served.give_up(s)) is not None}
        await self._registry.leave.remote(self._me, parked)
        self._served.close()
