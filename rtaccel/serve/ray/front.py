"""The Open Inference Protocol in front of a cluster: requests are decoded here, and computed by replicas of a `Deployment`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from rtaccel.core.errors import RtaccelError, UnsupportedProblem
from rtaccel.deploy.load import load
from rtaccel.serve.ray.deployment import Deployment
from rtaccel.serve.v2.job import Arrays
from rtaccel.serve.v2.refusals import TooLate, UnknownSequence
from rtaccel.serve.v2.repository import Repository
from rtaccel.serve.v2.request import Request, Sequence
from rtaccel.serve.v2.served import ServedModel
from rtaccel.serve.v2.settings import Settings


class ClusterModel(ServedModel):
    """A model whose requests go to the replicas of a deployment. Steps of a sequence go one after the other, in the order in
    which they came; those of others do not wait for them."""

    def __init__(self, deployment: Deployment, path: str, model: Any, settings: Settings) -> None:
        super().__init__(deployment.name, path, model, settings.max_batch, settings.sequence_idle_s)
        self.deployment = deployment
        self._turns: dict[Sequence, list[Any]] = {}  # sequence -> [lock, how many hold it or wait for it]

    async def infer(self, request: Request, arrived_ns: int) -> Arrays:
        """As ServedModel.infer. Raises what the replica raised, and TooLate for what is too late to be sent."""
        self._rows(request)
        began = time.monotonic_ns()
        try:
            sequence = request.parameters.sequence
            if self.sequences is None:
                made = await self._sent(request, arrived_ns)
            elif sequence is None:
                raise UnknownSequence("infer", f"a request of {self.name!r} without sequence_id", "the id of a sequence",
                                      "Pass sequence_id, with sequence_start for its first step.")  # fmt: skip
            else:
                made = await self._in_turn(sequence, request, arrived_ns)
        except TooLate:
            self.counts.too_late += 1
            raise
        except Exception:
            self.counts.failed += 1
            raise
        self._count(request, arrived_ns, began)
        return made

    async def _in_turn(self, sequence: Sequence, request: Request, arrived_ns: int) -> Arrays:
        turn = self._turns.setdefault(sequence, [asyncio.Lock(), 0])
        turn[1] += 1
        try:
            async with turn[0]:
                return await self._sent(request, arrived_ns)
        finally:
            turn[1] -= 1
            if not turn[1]:
                del self._turns[sequence]

    async def _sent(self, request: Request, arrived_ns: int) -> Arrays:
        asked = request.parameters
        left = None
        if asked.timeout_us is not None:
            left = asked.timeout_us - (time.monotonic_ns() - arrived_ns) // 1000
            if left <= 0:
                raise TooLate("infer", f"a request {-left} us after its deadline", "time to send it on", "Allow more.")
        # A number and a text are two sequences.
        stream = None if self.sequences is None else f"{type(asked.sequence).__name__}-{asked.sequence}"
        response = self.deployment.send(
            *request.inputs, stream=stream, start=asked.start, end=asked.end, timeout_us=left
        )
        try:
            return tuple(await response)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except RtaccelError:
            raise
        except ray.exceptions.RayError as error:
            raise UnsupportedProblem("infer", f"a replica that died ({type(error).__name__})", "one that answers",
                                     "Send it again; a sequence is to be started anew.") from None  # fmt: skip

    def _count(self, request: Request, arrived_ns: int, began: int) -> None:
        now, counts, timeout = time.monotonic_ns(), self.counts, request.parameters.timeout_us
        counts.began_ns = began
        late = timeout is not None and now > arrived_ns + timeout * 1000
        counts.late += late
        counts.ok += not late
        counts.took.add(now - began)
        counts.batch.add(1)

    async def settle(self) -> None:
        """Requests under way are the gate's to wait for."""

    def close(self) -> None:
        super().close()
        self.deployment.stop()


class ClusterRepository(Repository):
    """Each file as a deployment. replicas: (fewest, most) of each. options: more of `Deployment`."""

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        settings: Settings,
        verify_key: Any = None,
        replicas: tuple[int, int] = (1, 4),
        options: dict[str, Any] | None = None,
    ) -> None:
        self._replicas, self._options = replicas, options or {}
        try:
            super().__init__(paths, settings, verify_key)
        except BaseException:
            self.close()
            raise

    def _load(self, name: str) -> ServedModel:
        path, settings = self._paths[name], self._settings
        model = load(path, verify_key=self._key, threads=settings.threads)  # what it takes, and whether it loads at all
        made = Deployment(
            path, name=name, replicas=self._replicas, max_batch=settings.max_batch, threads=settings.threads,
            verify_key=self._key, **self._options,
        )  # fmt: skip
        return ClusterModel(made.run(), path, model, settings)

    def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Refused: weights are exchanged on all replicas after a canary, by `Deployment.swap`."""
        self._allowed("load")
        raise UnsupportedProblem("load", "a model on a cluster", "Deployment.swap with a canary", "Restart the server.")
