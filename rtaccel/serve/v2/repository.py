"""The models of a server, by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.deploy.load import load
from rtaccel.deploy.verified import read_verified
from rtaccel.serve.v2.metrics import ModelCounts
from rtaccel.serve.v2.objects import each_key_once
from rtaccel.serve.v2.refusals import UnknownModel
from rtaccel.serve.v2.served import ServedModel
from rtaccel.serve.v2.settings import Settings

VERSION = "1"
"""Of every model: a file has one content."""


class Repository:
    """Files under the names of their stems. All are loaded, or a typed error is raised.

    verify_key: as in rt.load; every file must then be signed with it, those that are loaded later too.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], settings: Settings, verify_key: Any = None) -> None:
        self._settings, self._key = settings, verify_key
        self._paths: dict[str, str] = {}
        self._models: dict[str, ServedModel] = {}
        self._reasons: dict[str, str] = {}
        for path in paths:
            name = Path(path).stem
            if name in self._paths:
                raise FormatError("serve", f"two files {name!r}", "a name for each", "Rename one.")
            self._paths[name] = os.fspath(path)
        if not self._paths:
            raise FormatError("serve", "no model", "at least one file", "Name a file that rt.save wrote.")
        for name in self._paths:
            self._models[name] = self._load(name)

    def _load(self, name: str) -> ServedModel:
        path = self._paths[name]
        model = load(path, verify_key=self._key, threads=self._settings.threads)
        return ServedModel(name, path, model, self._settings.max_batch, self._settings.sequence_idle_s)

    def get(self, name: str, version: str = "") -> ServedModel:
        """Raises UnknownModel."""
        model = self._models.get(name)
        if model is None or version not in ("", VERSION):
            known = ", ".join(sorted(self._models)) or "none"
            got = f"model {name[:80]!r}" + (f", version {version[:20]!r}" if version else "")
            # Clients of Triton look for a message that begins so.
            raise UnknownModel(
                "Request for unknown model",
                got,
                f"one of: {known}; version {VERSION}",
                "Ask for the repository's index.",
            )
        return model

    def has(self, name: str, version: str = "") -> bool:
        return name in self._models and version in ("", VERSION)

    def __iter__(self) -> Any:
        return iter(self._models.values())

    @property
    def ready(self) -> bool:
        return len(self._models) == len(self._paths)

    def index(self) -> list[dict[str, str]]:
        """Of every model: name, version, state ("READY" or "UNAVAILABLE") and the reason."""
        return [
            {
                "name": name,
                "version": VERSION,
                "state": "READY" if name in self._models else "UNAVAILABLE",
                "reason": "" if name in self._models else self._reasons.get(name, ""),
            }
            for name in self._paths
        ]

    def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Reads a file again: where its model is served, its weights are exchanged between two calls and sequences go on.
        parameters: `config`, JSON with max_batch_size: so many rows share a call from then on, at most settings.max_batch.

        Raises UnknownModel for a name that is not of this server, FormatError with nothing changed for a file or parameters that
        do not fit, UnsupportedProblem where the server does not allow it.
        """
        self._allowed("load")
        if name not in self._paths:
            # Clients of Triton look for a message that begins so.
            raise UnknownModel(
                f"failed to load {name[:80]!r}", "another model", f"one of: {', '.join(self._paths)}", "Start with it."
            )
        most = self._settings.max_batch
        rows = requested_batch(name, parameters or {}, most)
        served = self._models.get(name)
        if served is None:
            served = self._load(name)
            served.limit(rows or most)
            self._models[name] = served
            self._reasons.pop(name, None)
            return
        served.model.swap(read_verified(served.path, self._key))  # the very bytes that were verified
        served.limit(rows or most)

    async def unload(self, name: str) -> None:
        """Takes no more requests of a model, and ends it when those that wait are answered. Raises as `load` does."""
        self._allowed("unload")
        served = self.get(name)
        del self._models[name]
        self._reasons[name] = "unloaded"
        await served.settle()
        served.close()

    def _allowed(self, op: str) -> None:
        if not self._settings.repository:
            raise UnsupportedProblem(
                op, "a request to change the models", "a server that allows it", "Start it with --repository-control."
            )

    def counts(self) -> list[tuple[str, ModelCounts, int]]:
        return [(m.name, m.counts, len(m.sequences) if m.sequences is not None else 0) for m in self]

    def statistics(self, name: str = "") -> list[dict[str, Any]]:
        """As the extension of statistics has them."""
        made = []
        for m in [self.get(name)] if name else list(self):
            c = m.counts
            since = time.monotonic_ns() - c.began_ns
            made.append(
                {
                    "name": m.name,
                    "version": VERSION,
                    "last_inference": (time.time_ns() - since) // 1_000_000 if c.began_ns else 0,
                    "inference_count": c.batch.total,
                    "execution_count": c.batch.n,
                    "inference_stats": {
                        "success": {"count": c.ok + c.late, "ns": c.queue.total + c.took.total},
                        "fail": {"count": c.failed + c.too_late, "ns": 0},
                        "queue": {"count": c.queue.n, "ns": c.queue.total},
                        "compute_input": {"count": c.decoded.n, "ns": c.decoded.total},
                        "compute_infer": {"count": c.took.n, "ns": c.took.total},
                        "compute_output": {"count": c.encoded.n, "ns": c.encoded.total},
                    },
                }
            )
        return made

    def close(self) -> None:
        for model in self:
            model.close()


def requested_batch(name: str, parameters: Mapping[str, Any], most: int) -> int | None:
    """max_batch_size of the configuration that a client loads a model with; None without. Raises FormatError for all else."""
    op, config = f"failed to load {name[:80]!r}", parameters.get("config")
    others = [str(key)[:40] for key in parameters if key != "config"]
    if others:
        raise FormatError(
            op, f"the parameters {', '.join(others)}", "config alone", "A model is read from its own file."
        )
    if config is None:
        return None
    try:
        given = json.loads(config, object_pairs_hook=each_key_once)
    except (ValueError, TypeError, RecursionError):
        given = None
    if isinstance(given, dict) and set(given) <= {"max_batch_size"}:
        rows = given.get("max_batch_size", most)
        if isinstance(rows, str) and len(rows) < 10 and rows.isdecimal():  # as protobuf writes whole numbers
            rows = int(rows)
        if type(rows) is int and 1 <= rows <= most:
            return rows
    raise FormatError(op, f"config {str(config)[:80]!r}", f"JSON with max_batch_size of 1 to {most} alone", "Mend it.")
