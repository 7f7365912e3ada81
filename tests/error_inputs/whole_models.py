"""What nobody should do with a model that is compiled: save it nowhere, pickle it, name what it has not; as in compile.py."""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from tests.error_inputs.models import X, fast, mlp

Case = tuple[str, Callable[[], Any], type[rt.RtaccelError], str]

CASES: list[Case] = []


def add(name: str, call: Callable[[], Any], error: type[rt.RtaccelError], words: str) -> None:
    CASES.append((name, call, error, words))


class Open(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(1)


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x, torch.arange(3)


@functools.cache
def loaded() -> Any:
    return rt.load(rt.save(fast(), tempfile.mkdtemp() + "/m.rta"))


@functools.cache
def dynamic() -> Any:
    return rt.compile(Open().eval(), torch.randn(2, 5), dynamic={"x": {1: (2, 6)}})


@functools.cache
def cascade() -> Any:
    return rt.Cascade([rt.compile(mlp(), (X,)) for _ in range(2)], [rt.Exit("margin", above=0.5)])


@functools.cache
def stateless() -> Any:
    return rt.stream(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4))


def ranged(scale: float) -> Any:
    torch.manual_seed(0)
    return rt.compile(mlp(), (X,), "w8a8", calibration=[X * scale])


# -- files ------------------------------------------------------------------------------------------------------------

FOLDER = tempfile.mkdtemp()
NO_PATHS: dict[str, Any] = {"None": None, "a number": 3, "a file object": io.BytesIO(), "a list": ["a.rta"]}
NO_FILES: dict[str, Any] = {
    "a missing folder": f"{FOLDER}/none/a.rta",
    "a folder": FOLDER,
    "a Path": Path(FOLDER) / "no" / "a",
}
for name, path in NO_FILES.items():
    add(f"save into {name}", lambda p=path: rt.save(fast(), p), rt.FormatError, "save.*a file in a folder that exists")
for name, path in {**NO_PATHS, "bytes": b"a.rta"}.items():
    add(f"save to {name}", lambda p=path: rt.save(fast(), p), rt.FormatError, "save.*path of a file")
for name, path in NO_PATHS.items():
    add(f"load {name}", lambda p=path: rt.load(p), rt.FormatError, "load.*path of a file, or its bytes")
    add(f"load {name} in place", lambda p=path: rt.load(p, in_place=True), rt.FormatError, "load.*path of a file")
add(
    "save a DynamicModel",
    lambda: rt.save(dynamic(), f"{FOLDER}/a.rta"),
    rt.UnsupportedProblem,
    "DynamicModel.*plan_for",
)
add(
    "save a Cascade",
    lambda: rt.save(cascade(), f"{FOLDER}/a.rta"),
    rt.UnsupportedProblem,
    "Cascade.*each of its stages",
)
add(
    "save a model of constants",
    lambda: rt.save(rt.compile(Same().eval(), X), f"{FOLDER}/a.rta"),
    rt.UnsupportedProblem,
    "Same, whose results are constants.*Return what is computed too",
)
add(
    "save an nn.Module",
    lambda: rt.save(mlp(), f"{FOLDER}/a.rta"),
    rt.UnsupportedProblem,
    "Sequential.*Compile the model first",
)

# -- copies -----------------------------------------------------------------------------------------------------------

COPIED: dict[str, tuple[Callable[[], Any], str]] = {
    "a LoadedModel": (loaded, "loaded model.*Load the file once more"),
    "a Cascade": (cascade, "Cascade.*of compiled models there"),
    "a DynamicModel": (dynamic, "DynamicModel, which makes plans"),
}  # fmt: skip
for name, (make, words) in COPIED.items():
    add(f"pickle {name}", lambda make=make: pickle.dumps(make()), rt.UnsupportedProblem, f"pickle.*{words}")
    add(f"deepcopy {name}", lambda make=make: copy.deepcopy(make()), rt.UnsupportedProblem, words)

# -- names and numbers -----------------------------------------------------------------------------------------------

for name, call in {
    "another name": lambda: loaded()(inputs=X), "one argument twice": lambda: loaded()(X, input=X),
    "no argument": lambda: loaded()(y=X, input=X),
}.items():  # fmt: skip
    add(f"a loaded model with {name}", call, rt.ShapeError, "by name; expected input, each once")
add("a loaded model with a list", lambda: loaded()([[1.0] * 12]), rt.ShapeError, r"\(list\).*np\.float32")
for name, call in {
    "reset": lambda: stateless().reset([0]), "save_stream": lambda: stateless().save_stream(0),
    "loaded reset": lambda: loaded().reset(0),
}.items():  # fmt: skip
    add(f"{name} of no streams", call, rt.ShapeError, "none: the model keeps no past")
for value in (0, -1, math.nan, math.inf, "1"):
    add(
        f"RLSHead forget={value!r}",
        lambda v=value: rt.online.RLSHead(4, forget=v),
        rt.FormatError,
        "RLSHead: got forget=.*Change forget",
    )
    add(
        f"RLSHead p0={value!r}",
        lambda v=value: rt.online.RLSHead(4, p0=v),
        rt.FormatError,
        "RLSHead: got p0=.*Change p0",
    )
    add(
        f"KalmanHead noise={value!r}",
        lambda v=value: rt.online.KalmanHead(4, noise=v),
        rt.FormatError,
        "got noise=.*noise",
    )
for device in (None, torch.device("meta"), torch.device("cuda", 1), 0):
    add(
        f"device {device!r} as no text",
        lambda d=device: rt.compile(mlp(), (X,), device=d),
        rt.BackendUnavailable,
        "device=.*'cpu'",
    )
    add(
        f"stream on {device!r}", lambda d=device: rt.stream(mlp(), X, device=d), rt.BackendUnavailable, "device=.*'cpu'"
    )
add(
    "swap of other scales",
    lambda: ranged(1.0).swap(ranged(3.0)),
    rt.FormatError,
    r"swap: got another params\S*input_scale",
)
add("swap of another scheme", lambda: ranged(1.0).swap(fast()), rt.FormatError, "swap")
