"""Doors of inputs that are not what a network was compiled for: a NaN, half precision, other dtypes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bench.zoo.doors.outcome import Note, NothingToTry, Wrong
from bench.zoo.doors.subject import Subject, changed, compiled, with_one
from bench.zoo.survey import difference, leaves, other_batch, reference, said
from rtaccel.core.errors import RtaccelError

INPUTS = 4
"""Of a network with many inputs, so many get a NaN or another dtype."""

HALVES = (torch.bfloat16, torch.float16)
OTHERS = {
    torch.float32: (torch.float64, torch.int64),
    torch.int64: (torch.int32, torch.float32),
    torch.bool: (torch.float32,),
}


def nan(subject: Subject) -> Note:
    """One NaN in an input: NaN where torch in float32 has it, and nowhere else; other samples keep their bits."""
    subject.needs_steady()
    tried = 0
    for place, at, given, want in with_nans(subject):
        _check_nan(subject.call(subject.fast, given), want, f"a NaN in input {place} at {at}")
        _check_apart(subject, place)
        tried += 1
    return Note(f"{tried} inputs")


def with_nans(subject: Subject) -> Iterator[tuple[int, int, tuple[object, ...], list[Tensor]]]:
    """(input, place in it, inputs with a NaN there, what torch makes of them). Raises NothingToTry where torch takes none."""
    tried = 0
    for place in _floats(subject):
        given, at = _with_nan(subject.inputs, place, place)
        try:
            want = subject.eager(given)
        except Exception:  # the network itself takes no NaN
            continue
        tried += 1
        yield place, at, given, want
    if not tried:
        raise NothingToTry("no input that may hold a NaN")


def _check_nan(got: list[Tensor], want: list[Tensor], what: str) -> None:
    for index, (ours, torchs) in enumerate(zip(got, want)):
        lost = int((torchs.isnan() & ~ours.isnan()).sum())
        spread = int((ours.isnan() & ~torchs.isnan()).sum())
        if lost or spread:
            raise Wrong(
                f"{what}: of result {index}, {ours.numel()} numbers, {lost} NaN of torch's are lost, {spread} are too many"
            )
        finite = torchs.isfinite()
        error = difference([ours[finite]], [torchs[finite]])
        if error > 1e-3:
            raise Wrong(f"{what}: of result {index}, numbers that are no NaN differ by {error:.1e} of the rms")


def _check_apart(subject: Subject, place: int) -> None:
    """A NaN in the second of three samples, where the network keeps samples apart."""
    three = other_batch(subject.inputs, 3)
    if three is None:
        return
    try:
        torchs = subject.eager(three)
        plain = subject.call(subject.fast, three)
    except Exception:  # no other batches; another door says how that is told
        return
    tensor = pytree.tree_leaves(three)[place].clone()
    tensor[1].reshape(-1)[-1] = torch.nan
    given = with_one(three, place, tensor)
    hurt, ours = subject.eager(given), subject.call(subject.fast, given)
    for index, (a, b, c, d) in enumerate(zip(torchs, hurt, plain, ours)):
        for sample in (0, 2):
            if (
                a.dim()
                and a.shape[0] == 3
                and torch.equal(a[sample], b[sample])
                and not torch.equal(c[sample], d[sample])
            ):
                raise Wrong(f"a NaN in sample 1 of input {place} changes sample {sample} of result {index}")


def half(subject: Subject) -> Note:
    """Inputs in half precision: near the result of the same numbers in float32, or refused."""
    subject.needs_steady()
    if not _floats(subject):
        raise NothingToTry("no input in float32")
    told = []
    for dtype in HALVES:
        given = changed(subject.inputs, lambda t, dtype=dtype: t.to(dtype) if t.is_floating_point() else t)
        wide = changed(given, lambda t: t.float() if t.is_floating_point() else t)
        told.append(_taken_or_refused(subject, given, wide, str(dtype).removeprefix("torch.")))
    return Note("; ".join(told))


def dtype(subject: Subject) -> Note:
    """One input in another dtype, such as float64 for float32: the right result, or refused."""
    subject.needs_steady()
    told = []
    for place, leaf in _tensors(subject)[:INPUTS]:
        for other in OTHERS.get(leaf.dtype, ()):
            tensor = leaf.to(other)
            given, same = (
                with_one(subject.inputs, place, tensor),
                with_one(subject.inputs, place, tensor.to(leaf.dtype)),
            )
            told.append(
                _taken_or_refused(subject, given, same, f"input {place} in {str(other).removeprefix('torch.')}")
            )
    return Note("; ".join(dict.fromkeys(told)))


def half_model(subject: Subject) -> Note:
    """The network itself in bfloat16: as near to exact arithmetic as torch's, and in its own dtypes."""
    subject.needs_steady()
    if not _floats(subject):
        raise NothingToTry("no input in float32")
    narrow = copy.deepcopy(subject.model).bfloat16().eval()
    given = changed(subject.inputs, lambda t: t.bfloat16() if t.is_floating_point() else t)
    try:
        torchs = subject.eager(given, narrow)
        want, wide = reference(narrow, given)
    except Exception as error:  # networks that cannot be had in bfloat16
        raise NothingToTry(f"in torch: {said(error)}"[:200]) from error
    if wide != "float64":
        raise NothingToTry("no float64 to compare with")
    got = subject.call(compiled(narrow, given), given)
    forms = [[(t.dtype, t.shape) for t in one] for one in (got, torchs)]
    if forms[0] != forms[1]:
        raise Wrong(f"results of {forms[0]} in place of {forms[1]}")
    ours, limit = difference(got, want), max(0.01, 1.5 * difference(torchs, want))
    if not ours <= limit:
        raise Wrong(f"an error of {ours:.1e} beside float64, where {limit:.1e} is the limit")
    return Note(error=ours)


def _taken_or_refused(subject: Subject, given: tuple[object, ...], same: tuple[object, ...], what: str) -> str:
    """given: the numbers of `same` in other dtypes. Raises Wrong for a wrong result, and errors of no type of ours."""
    try:
        got = subject.call(subject.fast, given)
    except RtaccelError as error:
        return f"{what}: {type(error).__name__}"
    except Exception as error:
        if type(subject.fast).__name__ == "GuardedModel":  # raises what the model raises
            return f"{what}: as the model, {type(error).__name__}"
        raise
    want = subject.call(subject.fast, same)
    error = difference(got, leaves(want))
    if not error <= 0.02:
        raise Wrong(f"{what}: taken, and {error:.1e} of the rms away")
    return f"{what}: taken"


def _tensors(subject: Subject) -> list[tuple[int, Tensor]]:
    flat = pytree.tree_leaves(subject.inputs)
    return [(place, leaf) for place, leaf in enumerate(flat) if isinstance(leaf, Tensor)]


def _floats(subject: Subject) -> list[int]:
    return [place for place, leaf in _tensors(subject) if leaf.dtype == torch.float32 and leaf.numel()][:INPUTS]


def _with_nan(inputs: tuple[object, ...], place: int, seed: int) -> tuple[tuple[object, ...], int]:
    tensor = pytree.tree_leaves(inputs)[place].clone(memory_format=torch.contiguous_format)
    at = int(torch.randint(tensor.numel(), (), generator=torch.Generator().manual_seed(seed)))
    tensor.view(-1)[at] = torch.nan
    return with_one(inputs, place, tensor), at
