"""Which elements of memory tensors are made of, and stored values seen in another way."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from rtaccel.convert.frontend.layout import View


def has_itself_twice(tensor: Tensor) -> bool:
    """Whether two elements of a tensor are the same memory."""
    if tensor.is_contiguous() or tensor.numel() < 2:
        return False
    spans = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1)
    reach = 0  # of the dimensions so far, in elements
    for stride, size in spans:
        if stride <= reach:
            return _elements(tensor).unique().numel() != tensor.numel()  # unusual strides: look at each
        reach += stride * (size - 1)
    return False


def share_elements(a: Tensor, b: Tensor) -> bool:
    """Whether a byte of memory belongs to both tensors."""
    if a.numel() == 0 or b.numel() == 0:
        return False
    first, second = _bytes(a), _bytes(b)
    if first[0] >= second[1] or second[0] >= first[1]:
        return False
    if a.is_contiguous() and b.is_contiguous():
        return True
    base = min(first[0], second[0])
    marks = torch.zeros(max(first[1], second[1]) - base, dtype=torch.bool, device="cpu")
    for index, tensor in enumerate((a, b)):
        places = (_elements(tensor) * tensor.element_size() + (_bytes(tensor)[0] - base)).reshape(-1, 1)
        places = places + torch.arange(tensor.element_size(), device="cpu")
        if index and bool(marks[places].any()):
            return True
        marks[places] = True
    return False


def _bytes(tensor: Tensor) -> tuple[int, int]:
    """First and last byte but one; strides of torch are never negative."""
    reach = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _elements(tensor: Tensor) -> Tensor:
    """The place of each element, in elements from the first."""
    places = torch.zeros(1, dtype=torch.int64, device="cpu")
    for stride, size in zip(tensor.stride(), tensor.shape):
        places = (places[:, None] + torch.arange(size, device="cpu") * stride).reshape(-1)
    return places


def seen_as(view: View, stored: Tensor, batched: bool) -> tuple[Tensor, list[int], list[int]]:
    """A stored value, contiguous, with a dimension for each run of a view; the shape of the view itself, which joins them; and
    the dimensions that the view reads from the end, as torch has no negative strides."""
    samples = stored.shape[0] if batched else 1
    elements = stored.numel() // max(samples, 1)
    atoms = [(samples, elements) if a.batch else (a.size, a.stride) for dim in view.dims for a in dim]
    shape = [prod(samples if a.batch else a.size for a in dim) for dim in view.dims]
    backwards = [i for i, (_, stride) in enumerate(atoms) if stride < 0]
    place = stored.storage_offset() + view.offset
    if all(n for n, _ in atoms):
        place += sum((atoms[i][0] - 1) * atoms[i][1] for i in backwards)
    return stored.as_strided([n for n, _ in atoms], [abs(s) for _, s in atoms], place), shape, backwards
