"""The Open Inference Protocol over models from files: REST and gRPC (`rtaccel serve --v2`). Needs no torch.

    settings.py   what can be set          server.py      sockets, TLS, drain
    tensor_spec.py inputs and outputs      served.py, job.py  one model: deadlines, batches
    request.py    a request, decoded       sequences.py   which stream a sequence has
    rest_body.py  bodies of REST           repository.py  models by name
    app.py        routes of REST           metrics.py     counts for Prometheus
    messages.py, rpc_codec.py, rpc.py      the same over gRPC
    shared_memory.py  tensors that lie in objects of this machine

One thread runs it all: requests are decoded as they come, and what has come by the time the model is free is one native call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtaccel.core.lazy import attributes

_HOME = {"Server": "rtaccel.serve.v2.server", "Settings": "rtaccel.serve.v2.settings"}

__all__ = ["Server", "Settings"]

if TYPE_CHECKING:
    from rtaccel.serve.v2.server import Server
    from rtaccel.serve.v2.settings import Settings

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__, _HOME)
