"""A model from a file on a Ray cluster: replicas of Ray Serve, and scoring with Ray Data. Needs the package ray.

deployment.py   what a driver holds: run, step, swap, stop
replica.py      a model in a process of Ray Serve
registry.py     which replica has which stream, and which weights are served
router.py       a stream's requests go to its replica
front.py        the Open Inference Protocol in front of deployments: `rtaccel serve --ray`
data.py         scoring of data sets: map_batches
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtaccel.core.lazy import attributes

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
    __getattr__ = attributes(__name__, _HOME)
