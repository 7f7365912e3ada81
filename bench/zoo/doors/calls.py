"""Doors of calls: other numbers, again, `run` and `bind`, NumPy arrays, strided memory, other batches, copies."""

from __future__ import annotations

import copy
import io

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bench.zoo.doors.outcome import Note, NothingToTry, Wrong
from bench.zoo.doors.subject import Subject, changed, compiled
from bench.zoo.survey import leaves, other_batch, reference
from rtaccel.core.errors import RtaccelError

BATCHES = (2, 3, 7, 0)


def values(subject: Subject) -> Note:
    """The example and other numbers, near float64."""
    subject.needs_steady()
    calls = [subject.inputs, subject.varied(50), subject.varied(51)]
    found = [subject.check_near(subject.call(subject.fast, given), given, f"call {n}") for n, given in enumerate(calls)]
    return Note(error=max(found))


def again(subject: Subject) -> None:
    """The same call again, also with another between: the same bits. Inputs are not written to."""
    before = changed(subject.inputs, Tensor.clone)
    other = subject.call(subject.fast, subject.varied(52))
    subject.check_bits(subject.call(subject.fast, subject.inputs), "the second call")
    subject.check_bits(subject.call(subject.fast, subject.varied(52)), "other numbers, again", other)
    subject.check_bits(subject.inputs, "an input after the calls", before)


def bound(subject: Subject) -> None:
    """`run` and `bind`: the bits of a call."""
    fast = subject.fast
    out = pytree.tree_map_only(Tensor, _filled, _call(subject))
    _begin(subject)
    subject.check_bits(fast.run(*subject.inputs, out=out), "run")
    out = pytree.tree_map_only(Tensor, _filled, out)
    given = changed(subject.inputs, Tensor.clone)
    step = fast.bind(*given, out=out)
    _begin(subject)
    step()
    subject.check_bits(out, "bind")


def numpy(subject: Subject) -> None:
    """NumPy arrays in place of tensors: the bits of a call."""
    _begin(subject)
    arrays = pytree.tree_map_only(Tensor, lambda t: t.numpy(), subject.inputs)
    subject.check_bits(leaves(subject.fast(*arrays)), "NumPy arrays")


def strided(subject: Subject) -> None:
    """Tensors that lie otherwise in memory: the bits of contiguous ones."""
    for name, form in {"transposed": _transposed, "every second": _every_second, "misaligned": _misaligned}.items():
        subject.check_bits(subject.call(subject.fast, changed(subject.inputs, form)), f"inputs that are {name}")


def batch(subject: Subject) -> Note:
    """Other batches than the example's: near float64, or refused."""
    subject.needs_steady()
    worst, taken, refused = 0.0, [], ""
    for size in BATCHES:
        given = other_batch(subject.inputs, size)
        if given is None:
            raise NothingToTry("the inputs share no batch of 1")
        try:
            want, _ = reference(subject.model, given)
        except Exception:  # the network itself takes no such batch
            continue
        try:
            got = subject.call(subject.fast, given)
        except RtaccelError as error:
            refused = refused or f"{size}: {error}"
            continue
        if [t.shape for t in got] != [t.shape for t in want]:
            shapes = [[list(t.shape) for t in one] for one in (got, want)]
            raise Wrong(f"a batch of {size} has results of {shapes[0]} in place of {shapes[1]}")
        worst = max(worst, subject.check_near(got, given, f"a batch of {size}")) if size else worst
        taken.append(size)
    if not taken and not refused:
        raise NothingToTry("the network itself takes no other batch")
    return Note(f"taken: {taken}" + (f"; refused: {refused[:300]}" if refused else ""), worst)


def second(subject: Subject) -> None:
    """Compiled once more: the same bits."""
    other = compiled(subject.model, subject.inputs)
    subject.check_bits(subject.call(other, subject.inputs), "the second compiled network")


def copied(subject: Subject) -> None:
    """A deep copy, and one that loads the state by `torch.load(weights_only=True)`: the same bits."""
    other = copy.deepcopy(subject.fast)
    subject.check_bits(subject.call(other, subject.inputs), "a deep copy")
    _begin(subject)
    written = io.BytesIO()
    torch.save(subject.fast.state_dict(), written)
    written.seek(0)
    other.load_state_dict(torch.load(written, weights_only=True))
    subject.check_bits(subject.call(other, subject.inputs), "a copy with the state loaded")


def _begin(subject: Subject) -> None:
    if hasattr(subject.fast, "reset"):
        subject.fast.reset()


def _call(subject: Subject) -> object:
    subject.needs_steady()
    _begin(subject)
    with torch.no_grad():
        return subject.fast(*subject.inputs)


def _filled(tensor: Tensor) -> Tensor:
    """Of the same form, with bytes that are no result."""
    other = torch.empty_like(tensor)
    other.view(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype).fill_(1)
    return other


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor


def _every_second(tensor: Tensor) -> Tensor:
    if not tensor.dim():
        return tensor
    wide = tensor.new_ones(*tensor.shape[:-1], 2 * tensor.shape[-1])
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _misaligned(tensor: Tensor) -> Tensor:
    """One element after the beginning of its memory."""
    wide = tensor.new_ones(tensor.numel() + 1)
    wide[1:] = tensor.reshape(-1)
    return wide[1:].reshape(tensor.shape)
