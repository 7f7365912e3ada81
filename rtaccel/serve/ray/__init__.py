"""A model from a file on a Ray cluster: replicas of Ray Serve, and scoring with Ray Data. Needs the package ray.

deployment.py   what a driver holds: run, step, swap, stop
replica.py      a model in a process of Ray Serve
registry.py     which replica has which stream, and which weights are served
router.py       a stream's requests go to its replica
data.py         scoring of data sets: map_batches
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Deployment": "rtaccel.serve.ray.deployment",
    "Scorer": "rtaccel.serve.ray.data",
    "score": "rtaccel.serve.ray.data",
}

__all__ = ["Deployment", "Scorer", "score"]

if TYPE_CHECKING:
    from rtaccel.serve.ray.data import Scorer, score
    from rtaccel.serve.ray.deployment import Deployment

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
