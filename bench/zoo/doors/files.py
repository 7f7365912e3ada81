"""Doors of files: saved and loaded with and without torch, as ONNX and back, and the same in W8A8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import rtaccel as rt
from bench.zoo.doors.outcome import Note, NothingToTry, Wrong
from bench.zoo.doors.subject import NEAR, Subject, changed
from bench.zoo.doors.values import with_nans
from bench.zoo.survey import difference, leaves, reference

ALONE = "bench.zoo.doors.without_torch"


def saved(subject: Subject) -> None:
    """`rt.save` and `rt.load`, also with packed weights mapped from the file: the same bits."""
    with TemporaryDirectory() as folder:
        _loaded(subject, subject.fast, subject.want, Path(folder))


def without_torch(subject: Subject) -> None:
    """The file in a process that cannot import torch: the same bits."""
    with TemporaryDirectory() as folder:
        _loaded_alone(subject, subject.fast, subject.want, Path(folder))


def onnx(subject: Subject) -> Note:
    """`rt.to_onnx` and `rt.from_onnx`: near float64."""
    subject.needs_steady()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        rt.to_onnx(subject.fast, path)
        back = rt.from_onnx(path).eval()
        worst = 0.0
        for given in (subject.inputs, subject.varied(60)):
            want, _ = reference(subject.model, given)
            with torch.no_grad():
                got = leaves(back(*subject_tensors(given)))
            if [t.shape for t in got] != [t.shape for t in want]:
                raise Wrong(f"results of {[list(t.shape) for t in got]} in place of {[list(t.shape) for t in want]}")
            error = difference(got, want)
            limit = max(NEAR, 10 * difference(subject.eager(given), want))
            if not error <= limit:
                raise Wrong(f"an error of {error:.1e} beside float64, where {limit:.1e} is the limit")
            worst = max(worst, error)
    return Note(error=worst)


def eight(subject: Subject) -> Note:
    """W8A8 with static scales: finite, the same bits again, and the error beside float64 is told."""
    subject.needs_steady()
    worst = 0.0
    for given in (subject.inputs, subject.varied(70)):
        want, _ = reference(subject.model, given)
        got = subject.call(subject.eight, given)
        error = difference(got, want)
        if any(b.isfinite().all() and not a.isfinite().all() for a, b in zip(got, want)) or error == float("inf"):
            raise Wrong(f"results that are not finite, or of other shapes: an error of {error}")
        worst = max(worst, error)
        subject.check_bits(subject.call(subject.eight, given), "again", got)
        strided = changed(given, lambda t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t)
        subject.check_bits(subject.call(subject.eight, strided), "transposed inputs", got)
    return Note(error=worst)


def eight_nan(subject: Subject) -> None:
    """One NaN in an input of the network in W8A8: every NaN of torch's is there."""
    subject.needs_steady()
    for place, at, given, want in with_nans(subject):
        got = subject.call(subject.eight, given)
        lost = sum(int((b.isnan() & ~a.isnan()).sum()) for a, b in zip(got, want))
        if lost:
            raise Wrong(f"a NaN in input {place} at {at}: {lost} NaN of torch's are lost")


def eight_saved(subject: Subject) -> None:
    """The network in W8A8 saved and loaded, with and without torch: the same bits."""
    subject.needs_steady()
    want = subject.call(subject.eight, subject.inputs)
    with TemporaryDirectory() as folder:
        _loaded(subject, subject.eight, want, Path(folder))
        _loaded_alone(subject, subject.eight, want, Path(folder))


def subject_tensors(inputs: Sequence[Any]) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]


def _loaded(subject: Subject, fast: Any, want: list[Tensor], folder: Path) -> None:
    path = rt.save(fast, folder / "net.rta")
    arrays = changed_to_arrays(subject.inputs)
    for name, model in {"loaded": rt.load(path), "loaded for two threads": rt.load(path, threads=2)}.items():
        subject.check_bits(as_tensors(model(*arrays)), name, want)
        if hasattr(fast, "reset"):
            model.reset()
        subject.check_bits(as_tensors(model(*arrays)), f"{name}, the second call", want)
    try:
        packed = rt.save(fast, folder / "packed.rta", prepacked=True)
    except rt.UnsupportedProblem as error:
        if "prepacked" not in str(error):
            raise
        return
    subject.check_bits(as_tensors(rt.load(packed, in_place=True)(*arrays)), "loaded in place", want)


def _loaded_alone(subject: Subject, fast: Any, want: list[Tensor], folder: Path) -> None:
    path = rt.save(fast, folder / "alone.rta")
    flat = [leaf.numpy() for leaf in subject_tensors(subject.inputs)]
    np.savez(folder / "in.npz", *flat)
    (folder / "nested.json").write_text(json.dumps(nested(subject.inputs)))
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", ALONE, str(path), str(folder)],
        env={**os.environ, "PYTHONPATH": paths}, cwd=folder, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        raise Wrong(f"the process without torch ended with status {ended.returncode}: {last}"[:400])
    with np.load(folder / "out.npz", allow_pickle=False) as stored:
        got = [torch.from_numpy(stored[name]) for name in stored.files]
    subject.check_bits(got, "loaded without torch", want)


def nested(value: Any) -> Any:
    """How tensors are nested, as JSON: None in place of each. Raises NothingToTry for what has no such form."""
    if isinstance(value, Tensor):
        return None
    if type(value) in (tuple, list):
        return {"kind": type(value).__name__, "items": [nested(one) for one in value]}
    if type(value) is dict:
        return {"kind": "dict", "keys": list(value), "items": [nested(one) for one in value.values()]}
    raise NothingToTry(f"an argument is a {type(value).__name__}")


def changed_to_arrays(inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(pytree.tree_map_only(Tensor, lambda t: t.contiguous().numpy(), tuple(inputs)))


def as_tensors(result: Any) -> list[Tensor]:
    return leaves(pytree.tree_map_only(np.ndarray, lambda a: torch.from_numpy(np.asarray(a, order="C")), result))
