"""State dicts that are not what they should be: one value of one tensor, one name, one shape changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.support.generators.tensors import SAME

State = dict[str, Any]


def _flip(t: Tensor, n: int) -> Tensor:
    """One bit of one element."""
    t = t.clone().contiguous()
    if t.numel():
        raw = t.flatten().view(torch.uint8)
        raw[n % raw.numel()] ^= 1 << (n // 7 % 8)
        t = raw.view(t.dtype).view(t.shape)
    return t


def _put(value: float) -> Callable[[Tensor, int], Tensor]:
    def change(t: Tensor, n: int) -> Tensor:
        t = t.clone().contiguous()
        if t.numel():
            limit = None if t.is_floating_point() or t.dtype == torch.bool else torch.iinfo(t.dtype)
            fits = value if limit is None else int(max(limit.min, min(limit.max, 0 if value != value else value)))
            t.view(-1)[n % t.numel()] = fits
        return t

    return change


def _other_dtype(t: Tensor, n: int) -> Tensor:
    return t.to(
        (torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)[n % 7]
    )


def _lying(t: Tensor, n: int) -> Tensor:
    """The same numbers in another form."""
    names = sorted(SAME)
    name = names[n % len(names)]
    if (
        t.dim() == 0
        or not t.numel()
        or (not t.is_floating_point() and name not in ("strided", "offset", "turned", "rows apart"))
    ):
        return t.clone()
    return SAME[name](t)


TENSORS: dict[str, Callable[[Tensor, int], Any]] = {
    "flip": _flip,
    "truncate": lambda t, n: t[: max(0, t.shape[0] - 1)] if t.dim() else t.reshape(1),
    "reshape": lambda t, n: t.reshape(-1, 1) if t.dim() else t.reshape(1, 1),
    "turn": lambda t, n: t.transpose(0, -1) if t.dim() else t.clone(),
    "lengthen": lambda t, n: torch.cat([t, t[:1]]) if t.dim() else torch.stack([t, t]),
    "expand": lambda t, n: t[:1].expand_as(t) if t.dim() else t.clone(),
    "dtype": _other_dtype,
    "lying otherwise": _lying,
    "nan": _put(float("nan")),
    "inf": _put(float("inf")),
    "huge": _put(3e38),
    "tiny": _put(1e-45),
    "zero": _put(0.0),
    "negative": _put(-1.0),
    "least": _put(-(2.0**63)),
    "most": _put(2.0**63 - 1024),
    "-128": _put(-128),
    "all zero": lambda t, n: torch.zeros_like(t),
    "meta": lambda t, n: t.to("meta"),
    "sparse": lambda t, n: t.to_sparse(),
    "array": lambda t, n: t.float().numpy(),
    "number": lambda t, n: 1.5,
    "none": lambda t, n: None,
    "list": lambda t, n: t.tolist(),
    "text": lambda t, n: "weights",
}


NAMES = ("drop", "rename", "extra", "swap", "empty", "number as name")


def changes() -> st.SearchStrategy[Any]:
    """[[kind, which tensor, a number], ...], one or two of them."""
    one = st.tuples(st.sampled_from((*TENSORS, *TENSORS, *NAMES)), st.integers(0, 60), st.integers(0, 10**6)).map(list)
    return st.lists(one, min_size=1, max_size=2)


def changed(state: State, what: Any) -> State:
    state = dict(state)
    for kind, which, number in what:
        names = [k for k, v in state.items() if isinstance(v, Tensor)]
        if not names:
            continue
        name = names[which % len(names)]
        if kind == "drop":
            del state[name]
        elif kind == "rename":
            state[f"{name}x"] = state.pop(name)
        elif kind == "extra":
            state[f"more.{name}"] = state[name].clone()
        elif kind == "swap":
            other = names[number % len(names)]
            state[name], state[other] = state[other], state[name]
        elif kind == "empty":
            state.clear()
        elif kind == "number as name":
            state[number] = state.pop(name)  # type: ignore[index]
        else:
            try:
                state[name] = TENSORS[kind](state[name], number)
            except (RuntimeError, TypeError, NotImplementedError, IndexError):
                continue  # torch has no such form of this tensor
    return state
