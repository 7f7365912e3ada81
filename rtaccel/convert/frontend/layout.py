"""Where the elements of a tensor lie: every tensor of the graph as a strided view of one stored value.

A stored value holds, for each sample, E = steps * width elements, dense. A view describes a torch tensor over it: for
each dimension the atoms (size, stride) it is made of, outer first. The batch is an atom of its own without a stride.
Transposes, slices, selections and reshapes then cost nothing: they only make another view, and a kernel looks whether
the view it is given is one it can read in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Atom:
    """A run of `size` elements, `stride` elements apart; batch: the samples, whose stride is the whole value."""

    size: int
    stride: int
    batch: bool = False


@dataclass(frozen=True)
class View:
    """base: name of the stored value. dims: the atoms of each dimension. offset: of the first element."""

    base: str
    dims: tuple[tuple[Atom, ...], ...]
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(a.size for a in dim) for dim in self.dims)

    @property
    def atoms(self) -> list[Atom]:
        return [a for dim in self.dims for a in dim if a.size != 1 or a.batch]

    def has_batch(self, dim: int) -> bool:
        return any(a.batch for a in self.dims[dim])

    @property
    def batch_dim(self) -> int | None:
        """The dimension that is the samples and nothing else; None where there is none, or it is joined with another."""
        for index, dim in enumerate(self.dims):
            if any(a.batch for a in dim):
                return index if all(a.batch or a.size == 1 for a in dim) else None
        return None


def dense(base: str, shape: Sequence[int], batch: int | None) -> View:
    """A contiguous tensor of `shape`; batch: the size of the samples in front of it, None where there are none."""
    stride, dims = 1, []
    for size in reversed(shape):
        dims.append((Atom(size, stride),))
        stride *= max(size, 1)
    front = ((Atom(batch, 0, True),),) if batch is not None else ()
    return View(base, (*front, *reversed(dims)))


def merged(atoms: Sequence[Atom]) -> list[Atom]:
    """The same elements in the same order with as few atoms as possible."""
    found: list[Atom] = []
    for atom in atoms:
        if atom.size == 1 and not atom.batch:
            continue
        last = found[-1] if found else None
        if last is not None and not last.batch and not atom.batch and last.stride == atom.size * atom.stride:
            found[-1] = Atom(last.size * atom.size, atom.stride)
        else:
            found.append(atom)
    return found


def covers(view: View, elements: int) -> bool:
    """Whether every element of the stored value occurs in the view exactly once."""
    own = sorted((a for a in view.atoms if not a.batch), key=lambda a: (-a.stride, -a.size))
    if view.offset != 0 or prod(a.size for a in own) != elements:
        return False
    return all(a.stride > 0 for a in own) and merged(own) in ([], [Atom(elements, 1)])


def behind_samples(dim: Sequence[Atom]) -> int | None:
    """How many elements of a dimension follow one another behind each of its samples; None where it has no samples."""
    at = next((i for i, a in enumerate(dim) if a.batch), None)
    return None if at is None else prod(a.size for a in dim[at + 1 :])


def same_samples(a: Sequence[Sequence[Atom]], b: Sequence[Sequence[Atom]]) -> bool:
    """Whether dimensions have their samples in the same places: `[samples, 2]` joined to one is not `[2, samples]`."""
    return [behind_samples(dim) for dim in a] == [behind_samples(dim) for dim in b]


def run_of(view: View, dim: int) -> Atom | None:
    """The single run that a dimension is; size 1 where it has one element; None where it is several or the samples."""
    atoms = merged(view.dims[dim])
    if not atoms:
        return Atom(1, 1)
    return atoms[0] if len(atoms) == 1 and not atoms[0].batch else None


# -- the calls that only look at a tensor in another way -------------------------------------------------------------


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """Atoms regrouped, and split where a dimension ends inside one; None where no strides describe it."""
    left = merged([a for a in view.atoms if a.size != 1])
    ones = [a for a in view.atoms if a.size == 1]  # a batch of one: it goes where a dimension of one is, the first
    dims: list[tuple[Atom, ...]] = []
    for size in shape:
        group: list[Atom] = []
        wanted = size
        if size == 1 and ones and not dims:
            group.append(ones.pop())
        while wanted > 1:
            if not left:
                return None
            atom = left.pop(0)
            if wanted % atom.size == 0:
                group.append(atom)
                wanted //= atom.size
            elif atom.size % wanted == 0 and not atom.batch:
                inner = atom.size // wanted
                group.append(Atom(wanted, atom.stride * inner))
                left.insert(0, Atom(inner, atom.stride))
                wanted = 1
            else:
                return None
        dims.append(tuple(group))
    if left or (ones and not dims):
        return None
    if ones:
        dims[0] = (*ones, *dims[0])
    return replace(view, dims=tuple(dims))


def permute(view: View, order: Sequence[int]) -> View:
    return replace(view, dims=tuple(view.dims[d % len(view.dims)] for d in order))


def select(view: View, dim: int, index: int) -> View | None:
    run = run_of(view, dim)
    size = view.shape[dim]
    if run is None:
        return None
    offset = view.offset + (index % size) * (run.stride if run.size > 1 else 0)
    return View(view.base, (*view.dims[:dim], *view.dims[dim + 1 :]), offset)


def slice_of(view: View, dim: int, start: int, end: int, step: int) -> View | None:
    size = view.shape[dim]
    if (start, min(end, size), step) == (0, size, 1):
        return view
    run = run_of(view, dim)
    indices = range(size)[start:end:step]
    if run is None and step == 1 and indices:
        return _outer_slice(view, dim, start, indices[-1] + 1)
    if run is None or not indices:
        return None
    atom = Atom(len(indices), run.stride * step)
    dims = (*view.dims[:dim], (atom,), *view.dims[dim + 1 :])
    return View(view.base, dims, view.offset + indices[0] * run.stride)


def _outer_slice(view: View, dim: int, start: int, end: int) -> View | None:
    """A slice of a dimension of several runs that cuts the outermost of them alone."""
    atoms = merged(view.dims[dim])
    inner = prod(a.size for a in atoms[1:])
    if any(a.batch for a in atoms) or start % inner or end % inner:
        return None
    cut = Atom((end - start) // inner, atoms[0].stride)
    dims = (*view.dims[:dim], (cut, *atoms[1:]), *view.dims[dim + 1 :])
    return View(view.base, dims, view.offset + start // inner * atoms[0].stride)


def expand(view: View, shape: Sequence[int]) -> View | None:
    dims: list[tuple[Atom, ...]] = [(Atom(size, 0),) for size in shape[: len(shape) - len(view.dims)]]
    for dim, had, size in zip(view.dims, view.shape, shape[len(dims) :]):
        if size in (-1, had):
            dims.append(dim)
        elif had == 1 and not any(a.batch for a in dim):
            dims.append((Atom(size, 0),))
        else:
            return None
    return replace(view, dims=tuple(dims))


# -- from a view to numbers -------------------------------------------------------------------------------------------


def offsets(view: View) -> NDArray[np.int64]:
    """The offset of each element of one sample, in the shape of the tensor with the samples as 1."""
    shape = [prod(a.size for a in dim if not a.batch) for dim in view.dims]
    found = np.full((1,), view.offset, dtype=np.int64)
    for atom in (a for dim in view.dims for a in dim if not a.batch):
        found = (found[:, None] + np.arange(atom.size, dtype=np.int64) * atom.stride).reshape(-1)
    return found.reshape(shape)


def same_layout(a: View, b: View) -> bool:
    """Whether two tensors of one shape lie alike, element for element."""
    return a.offset == b.offset and [merged(d) for d in a.dims] == [merged(d) for d in b.dims]
