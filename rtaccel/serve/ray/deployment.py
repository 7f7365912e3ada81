"""`Deployment`: a model from a file on a Ray cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError, UnsupportedProblem
from rtaccel.deploy.load import load
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.deploy.verified import read_verified

try:
    import ray
    from ray import serve
except ImportError as error:
    raise BackendUnavailable(
        "serve.ray", f"no package ray ({error})", "it, with Ray Serve", "pip install 'rtaccel[ray]'"
    ) from None

from rtaccel.serve.ray.registry import Registry
from rtaccel.serve.ray.replica import Replica
from rtaccel.serve.ray.router import StreamRouter

NAMESPACE = "rtaccel"


class Deployment:
    """A model of rt.save as a deployment of Ray Serve: replicas by load, streams with their past, weights exchanged together.

    path: the file; its bytes travel to the replicas. verify_key: as in rt.load.
    name: of the deployment; None: the file's stem.
    replicas: (fewest, most). target_ongoing: requests under way for a replica; more add replicas, fewer take some away.
    autoscaling: more settings of Ray Serve's AutoscalingConfig, `upscale_delay_s` for example.
    actor_options: of the replicas, `num_cpus` for example. max_batch, threads: as in rtaccel serve.
    claim_s: so long a step may wait for its stream to come from another replica.

    Streams: each has a name; its steps are to be sent one after the other, each after the answer of the one before. They go to
    one replica as long as it is there. Where replicas come or go a stream moves with its past, on its next step; a replica that
    is full parks those that were used least recently, so there may be more streams than the file has. A replica that dies takes
    its streams with it: their next step raises UnknownSequence.

    `with` runs and stops it. Raises FormatError for a file or setting that does not fit, BackendUnavailable without ray.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        replicas: tuple[int, int] = (1, 4),
        target_ongoing: float = 8.0,
        autoscaling: dict[str, Any] | None = None,
        actor_options: dict[str, Any] | None = None,
        max_batch: int = 64,
        threads: int = 1,
        claim_s: float = 10.0,
        verify_key: Any = None,
    ) -> None:
        low, high = replicas
        if not (isinstance(low, int) and isinstance(high, int) and 1 <= low <= high):
            raise FormatError("Deployment", f"replicas={replicas!r}", "(fewest, most), from 1", "Pass two numbers.")
        self._key = verify_key
        self._content = read_verified(path, verify_key)
        self._model: LoadedModel = load(self._content)
        self.name = name or Path(path).stem
        self._options = {"max_batch": max_batch, "threads": threads, "claim_s": claim_s}
        scaling = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": target_ongoing}
        self._scaling = {**scaling, **(autoscaling or {})}
        self._actor_options = {"num_cpus": 1, **(actor_options or {})}
        self._registry: Any = None
        self._handle: Any = None

    @staticmethod
    def join(address: str | None = None) -> None:
        """Joins a cluster; None: the one that RAY_ADDRESS names, else one of this machine. Does nothing where one is joined."""
        if not ray.is_initialized():
            ray.init(address=address or os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)

    def run(self) -> Deployment:
        """Starts it on the cluster that ray.init found, or on a new one of this machine, and waits until a replica answers."""
        if self._handle is not None:
            raise UnsupportedProblem("run", "a deployment that runs", "one call of run", "Stop it first.")
        if not ray.is_initialized():
            ray.init()
        registry = f"{self.name}-{uuid.uuid4().hex[:8]}"
        options = {"name": registry, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": 100_000}
        self._registry = ray.remote(Registry).options(**options).remote([ray.put(self._content)])
        deployment: Any = serve.deployment(Replica)
        routing: Any = serve.config.RequestRouterConfig
        made = deployment.options(
            name=self.name,
            autoscaling_config=self._scaling,
            ray_actor_options=self._actor_options,
            max_ongoing_requests=max(100, int(4 * self._scaling["target_ongoing_requests"])),
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=60.0,
            request_router_config=routing(request_router_class=StreamRouter),
        )
        app = made.bind(self.name, registry, NAMESPACE, self._options)
        try:
            self._handle = serve.run(app, name=self.name, route_prefix=None)
        except BaseException:
            ray.kill(self._registry)
            raise
        return self

    # -- requests

    def infer(self, *inputs: Any, timeout_s: float | None = 60.0) -> Any:
        """A call of a model without a past: arrays float32 [batch, ...] as it takes them to such arrays; a tuple where there are
        several. Raises what the replica raised."""
        return _unpacked(_result(self.send(*inputs), timeout_s))

    def step(
        self, stream: str, *inputs: Any, start: bool = False, end: bool = False, timeout_s: float | None = 60.0
    ) -> Any:
        """One time step of a stream: float32 [1, features] to [1, outputs]. start: without a past; end: it is not stepped again.

        Raises UnknownSequence for a stream that was not started or is lost, Full where no replica has a place for it.
        """
        return _unpacked(_result(self.send(*inputs, stream=stream, start=start, end=end), timeout_s))

    def send(
        self,
        *inputs: Any,
        stream: str | None = None,
        start: bool = False,
        end: bool = False,
        timeout_us: int | None = None,
    ) -> Any:
        """The same as a response of Ray Serve: `.result()` waits, `await` does, and both give a tuple of arrays. timeout_us: from
        its arrival at the replica; what would be later is not begun there."""
        self._runs("send")
        arrays = tuple(np.asarray(x) for x in inputs)
        if stream is None:
            return self._handle.infer.remote(arrays, timeout_us=timeout_us)
        if not isinstance(stream, str) or not 0 < len(stream) <= 160:
            raise ShapeError("step", f"stream {stream!r:.60}", "a text of 1 to 160 characters", "Name the stream.")
        return self._handle.step.remote(arrays, stream=stream, start=start, end=end, timeout_us=timeout_us)

    # -- weights

    def swap(
        self,
        path: str | os.PathLike[str],
        *,
        canary: Sequence[Any],
        check: Callable[..., bool] | None = None,
        timeout_s: float = 60.0,
    ) -> int:
        """Other weights of the same model for all replicas: tried on one, then exchanged on all others at once. The new version.

        canary: inputs of the model, float32 [batch, ...]. The first replica computes them with the new weights, beside its
            requests; outputs must be finite.
        check: check(*outputs) -> bool decides whether they are as they should be.

        Each step is computed with the old weights or with the new ones, and streams keep their past. Where the canary or
        any replica refuses, those that had them go back to the old weights, new replicas begin with these, and FormatError says
        why.
        """
        self._runs("swap")
        content = read_verified(path, self._key)
        load(self._content).swap(content)  # here first: raises where it is not the same model
        weights = [ray.put(content)]
        probe = (tuple(np.asarray(x) for x in canary), check)
        first, *others = self._ask("replicas") or [None]
        if first is None:
            raise UnsupportedProblem("swap", "no replica that answers", "at least one", "Look at the cluster.")
        said = self._ask("change", "swap", weights, probe, [first], timeout_s)
        if others and not any(said.values()):
            said |= self._ask("change", "swap", weights, None, others, timeout_s)
        refused = {replica: text for replica, text in said.items() if text}
        done = [replica for replica in said if replica not in refused]
        gone = {replica for replica, text in refused.items() if text == "it has left"}
        if set(refused) - gone or not done:
            if done:
                self._ask("change", "rollback", None, None, done, timeout_s)
            replica, text = next(iter(refused.items()))
            got = f"replica {replica}: {text}"
            raise FormatError("swap", got, "weights that every replica takes", "All of them have the old ones.")
        version = self._ask("commit", weights)
        late = [replica for replica in self._ask("replicas") if replica not in said]
        if late:  # they came during the wave, with the old ones
            self._ask("change", "swap", weights, None, late, timeout_s)
        self._content = content
        return int(version)

    # -- the rest

    def stats(self) -> dict[str, Any]:
        """replicas that live, streams of each, parked ones, moves, lost streams, and the version of the weights."""
        self._runs("stats")
        return dict(self._ask("numbers"))

    def stop(self) -> None:
        """Ends it; streams are over."""
        if self._handle is not None:
            serve.delete(self.name)
            ray.kill(self._registry)
            self._handle = self._registry = None

    def __enter__(self) -> Deployment:
        return self.run()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop()

    def _ask(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._registry, method).remote(*args))

    def _runs(self, op: str) -> None:
        if self._handle is None:
            raise UnsupportedProblem(op, "a deployment that does not run", "one that does", "Call run first.")


def _result(response: Any, timeout_s: float | None) -> tuple[np.ndarray, ...]:
    try:
        return tuple(response.result(timeout_s=timeout_s))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None


def _unpacked(outs: tuple[np.ndarray, ...]) -> Any:
    return outs[0] if len(outs) == 1 else outs
