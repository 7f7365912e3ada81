"""What nobody should pass to cuts, endpoints, remotes and frames: (name, call, exact type of the error, words that matter)."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rtaccel as rt
from rtaccel.search.cost_table import machine
from rtaccel.serve.frames import Reader, Writer
from rtaccel.serve.remote import Endpoint, Remote
from rtaccel.serve.remote.transport import Inside
from rtaccel.serve.split.cut import Cut
from tests.error_inputs.models import X, mlp

Case = tuple[str, Callable[[], Any], type[rt.RtaccelError], str]

CASES: list[Case] = []

F, S = rt.FormatError, rt.ShapeError

NO_WHOLE: dict[str, Any] = {
    "text": "5", "bytes": b"5", "True": True, "None": None, "a list": [5], "a half": 0.5, "nan": math.nan, "an array": np.ones(2),
    "2**70": 2**70, "-2**70": -(2**70),
}  # fmt: skip
NO_TENSOR: dict[str, Any] = {
    "None": None, "a number": 1.0, "a text": "x", "a scalar": torch.tensor(1.0), "rank 1": torch.randn(12),
    "rank 3": torch.randn(1, 2, 12), "another width": torch.randn(2, 13), "float64": X.double(), "int64": X.long(),
}  # fmt: skip


def add(name: str, call: Callable[[], Any], error: type[rt.RtaccelError], words: str) -> None:
    CASES.append((name, call, error, words))


@functools.cache
def cut() -> Cut:
    """Everything in the cloud, which is a machine that takes no time."""
    here = rt.MachineProfile(machine(), {"probe": ("linear float32", 1.0)}, {}, 1.0, {})
    made = rt.split(mlp(), (X,), rt.Link(0.0), edge=here.scaled(1e6), remote=here, wires=("float32",))
    return made.other(next(row for row in made.front if row.at == 0))


@functools.cache
def endpoint() -> Endpoint:
    return Endpoint.of(cut())


def remote() -> Remote:
    return Remote.of(cut(), Inside(endpoint()))


@functools.cache
def writer() -> Writer:
    return Writer([np.ones((1, 4), np.float32)], bytes(16))


def frame() -> bytearray:
    made = bytearray(writer().bytes)
    writer().write(made, sequence=1)
    return made


def split(**changed: Any) -> Any:
    given = {"example_inputs": (X,), "link": rt.Link(100.0), "wires": ("float32",)} | changed
    return rt.split(mlp(), given.pop("example_inputs"), given.pop("link"), **given)


# -- cuts --------------------------------------------------------------------------------------------------------------

for name, value in NO_TENSOR.items():
    add(f"split calibrated by {name}", lambda v=value: split(calibration=[X, v]), S, "calibration|batch")
for name, bad in {"nan": math.nan, "inf": math.inf}.items():
    add(f"split calibrated by {name}", lambda b=bad: split(calibration=[torch.full((2, 12), b)]), F, "batch 0.*finite")
    add(f"split of {name}", lambda b=bad: split(example_inputs=(torch.full((2, 12), b),)), F, "the example.*finite")
for name, value in NO_WHOLE.items():
    add(f"cut.other of {name}", lambda v=value: cut().other(v), F, "split: got row=")
add("cut.other of a row of a longer model", lambda: cut().other(replace(cut().best, at=99)), F, "a row at 99")

# -- both ends ---------------------------------------------------------------------------------------------------------

for name, value in NO_WHOLE.items():
    add(f"Endpoint.load batch={name}", lambda v=value: saved(batch=v), F, "Endpoint: got batch=")
    if name != "2**70":
        add(f"Endpoint max_peers={name}", lambda v=value: Endpoint.of(cut(), max_peers=v), F, "got max_peers=")
    if value is not None:
        add(f"Remote.post stamp_ns={name}", lambda v=value: remote().post(X, stamp_ns=v), F, "remote: got stamp_ns=")
    if name not in ("None", "True"):  # the first is the default, the second a one
        add(
            f"Endpoint.answer size={name}", lambda v=value: endpoint().answer(frame(), size=v), S, "Endpoint: got size="
        )
        add(f"Writer.write session={name}", lambda v=value: writer().write(frame(), 1, session=v), F, "got session=")
        add(f"Writer.write sequence={name}", lambda v=value: writer().write(frame(), v), F, "frame: got sequence=")
        add(
            f"Writer.write status={name}", lambda v=value: writer().write(frame(), 1, status=v), F, "frame: got status="
        )
for value in (0, -1):
    add(f"Endpoint.load batch={value}", lambda v=value: saved(batch=v), F, "Endpoint: got batch=")
add("Endpoint.answer size=-1", lambda: endpoint().answer(frame(), size=-1), S, "Endpoint: got size=")
for name, value in {"text": "1", "None": None, "nan": math.nan, "a list": [1], "True": True}.items():
    add(f"Remote timeout_s={name}", lambda v=value: remote()(X, timeout_s=v), F, "remote: got timeout_s=")
    add(f"Remote.take timeout_s={name}", lambda v=value: remote().take(v), F, "remote: got timeout_s=")
for name, value in NO_TENSOR.items():
    add(f"Remote of {name}", lambda v=value: remote().post(v), S, "remote: got")
for name, value in {"None": None, "text": "abc", "a number": 3, "strided bytes": np.zeros(90, np.uint8)[::2]}.items():
    add(f"Endpoint.answer of {name}", lambda v=value: endpoint().answer(v), S, "Endpoint: got a frame")
    add(f"Reader.read of {name}", lambda v=value: reader().read(v), S, "frame: got a frame")
    add(f"Writer.write into {name}", lambda v=value: writer().write(v, 1), S, "frame: got out")
add("Writer.write into bytes", lambda: writer().write(bytes(writer().bytes), 1), S, "frame: got out")
for kind in ("x", "", None, 1, ["request"]):
    add(f"Writer.write kind={kind!r}", lambda k=kind: writer().write(frame(), 1, kind=k), F, "frame: got kind=")
    add(f"Reader.read kind={kind!r}", lambda k=kind: reader().read(frame(), kind=k), F, "frame: got kind=")


def reader() -> Reader:
    return Reader([np.ones((1, 4), np.float32)], bytes(16))


@functools.cache
def file() -> Path:
    return cut().save_cloud(Path(tempfile.mkdtemp(), "cloud.rta"))


def saved(**changed: Any) -> Endpoint:
    return Endpoint.load(file(), **changed)


# -- hedged ------------------------------------------------------------------------------------------------------------


def hedged(answer: Any) -> Any:
    with rt.Hedged(local=lambda x: (x, x[:, :2]), remote=lambda x: answer, deadline_us=5e7) as made:
        return made(X)


for name, answer in {
    "another shape": (torch.ones(2, 11), torch.ones(2, 2)), "one tensor less": torch.ones(2, 12), "no tensor": 5,
    "a batch of its own": (torch.ones(3, 12), torch.ones(3, 2)),
}.items():  # fmt: skip
    add(
        f"a remote's answer of {name}",
        lambda a=answer: hedged(a),
        S,
        r"Hedged: got tensors.*expected \[\[2, 12\], \[2, 2\]\]",
    )
