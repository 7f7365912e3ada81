"""The requests of a stream go to one replica as long as it is there: rendezvous hashing of the stream's name.

Where a replica comes or goes, only those streams move whose highest hash it has. Requests without a stream go to one of
two replicas by chance, the one with less to do, as Ray Serve does it.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class StreamRouter(RequestRouter):
    """For Ray Serve's `RequestRouterConfig`."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One rank: the stream's replica alone, so that a request waits for it and does not move the stream."""
        if not candidate_replicas:
            return []
        stream = _stream_of(pending_request)
        if stream is None:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        return [[max(candidate_replicas, key=lambda replica: weight(stream, replica.replica_id.unique_id))]]


def weight(stream: str, replica: str) -> bytes:
    """The stream belongs where this is largest."""
    return blake2b(f"{len(stream)}:{stream}{replica}".encode(), digest_size=8).digest()


def _stream_of(request: Any) -> str | None:
    stream = None if request is None else request.kwargs.get("stream")
    return stream if isinstance(stream, str) else None
