"""`einsum` as products of matrices, two operands at a time. No samples are joined with another dimension, as torch would."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten


def einsum(equation: str, operands: Sequence[Tensor], *, path: Any = None) -> Tensor:
    """What the call means. By torch's own decomposition where numbers are no float ones."""
    named = labels(equation, operands)
    if named is None:
        return aten.einsum.default.decompose(equation, operands, path=path)
    terms, out = named
    walked = [_of_diagonals(x, term) for x, term in zip(operands, terms)]
    operands, terms = [x for x, _ in walked], [term for _, term in walked]
    operands = _broadcast(operands, terms)
    x, term = operands[0], terms[0]
    if len(terms) == 1:
        x, term = _summed(x, term, out)
        return _in_order(x, term, out)
    for i in range(1, len(terms)):
        later = "".join(terms[i + 1 :])
        kept = "".join(c for c in dict.fromkeys(term + terms[i]) if c in later + out) if later else out
        x, term = _product(x, term, operands[i], terms[i], kept), kept
    return x


def _of_diagonals(x: Tensor, term: str) -> tuple[Tensor, str]:
    """An index that occurs twice in an operand walks along a diagonal of it."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            first = term.index(c)
            second = term.index(c, first + 1)
            x = aten.diagonal.default(x, 0, first, second)
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + c
    return x, term


def _broadcast(operands: Sequence[Tensor], terms: Sequence[str]) -> list[Tensor]:
    """An index of size 1 in one operand has the size that it has in another."""
    sizes: dict[str, Any] = {}
    for x, term in zip(operands, terms):
        sizes.update({c: n for c, n in zip(term, x.shape) if type(sizes.get(c, 1)) is int and sizes.get(c, 1) == 1})
    return [x.expand([sizes[c] for c in term]) for x, term in zip(operands, terms)]


def _product(a: Tensor, first: str, b: Tensor, second: str, out: str) -> Tensor:
    """Of two operands, whose indices occur once in each."""
    a, first = _summed(a, first, second + out)
    b, second = _summed(b, second, first + out)
    sizes = {**dict(zip(second, b.shape)), **dict(zip(first, a.shape))}
    own = [c for c in out if c in first and c not in second]
    other = [c for c in out if c in second and c not in first]
    if any(not isinstance(sizes[c], int) for c in other) and all(isinstance(sizes[c], int) for c in own):
        a, b, first, second, own, other = b, a, second, first, other, own  # the columns of the right side are joined
    shared = [c for c in out if c in first and c in second]
    along = [c for c in first if c in second and c not in out]
    left = _in_order(a, first, [*shared, *own, *along])
    left = _last_joined(left, len(along))
    left = left if own else left.unsqueeze(-2)
    right = _last_joined(_in_order(b, second, [*shared, *along, *other]), len(other))
    lead = len(shared)
    if len(along) != 1:
        right = right.reshape(*right.shape[:lead], prod(right.shape[lead:-1]), right.shape[-1])
    for _ in own[1:]:
        right = right.unsqueeze(lead)
    made = torch.matmul(left, right)
    made = made if own else made.squeeze(-2)
    if len(other) != 1:
        made = made.reshape(*made.shape[:-1], *(sizes[c] for c in other))
    order = [*shared, *own, *other]
    return made.permute([order.index(c) for c in out])


def labels(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str] | None:
    """Letters of each operand and of the result, the dots by letters of their own."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands) or not all(t.is_floating_point() for t in operands):
        return None
    hidden = [t.dim() - len(term.replace("...", "")) for t, term in zip(operands, terms)]
    dots = [n for n, term in zip(hidden, terms) if "..." in term]
    free = [c for c in ascii_letters if c not in equation]
    letters = "".join(free[: max(dots, default=0)])
    terms = [term.replace("...", letters[len(letters) - n :]) for n, term in zip(hidden, terms)]
    if not arrow:
        every = "".join(terms)
        out = letters + "".join(sorted(c for c in set(every) - set(letters) if every.count(c) == 1))
    return terms, out.replace("...", letters)


def tensordot(a: Tensor, b: Tensor, dims_self: Sequence[int], dims_other: Sequence[int]) -> Tensor:
    """The sum over pairs of dimensions, as an `einsum`."""
    names = iter(ascii_letters)
    first = [next(names) for _ in range(a.dim())]
    second = [next(names) for _ in range(b.dim())]
    out = [c for d, c in enumerate(first) if d not in [i % a.dim() for i in dims_self]]
    for i, j in zip(dims_self, dims_other):
        second[j] = first[i]
    out += [c for c in second if c not in first]
    return einsum(f"{''.join(first)},{''.join(second)}->{''.join(out)}", [a, b])


def _summed(x: Tensor, labels: str, wanted: str) -> tuple[Tensor, str]:
    """Without the dimensions that nobody else names."""
    lost = [d for d, c in enumerate(labels) if c not in wanted]
    return (x.sum(lost), "".join(c for c in labels if c in wanted)) if lost else (x, labels)


def _in_order(x: Tensor, labels: str, order: Sequence[str]) -> Tensor:
    return x.permute([labels.index(c) for c in order])


def _last_joined(x: Tensor, count: int) -> Tensor:
    """The last `count` dimensions as one."""
    if count == 1:
        return x
    return x.unsqueeze(-1) if count == 0 else x.reshape(*x.shape[: x.dim() - count], prod(x.shape[x.dim() - count :]))
