"""What `rt.compile` makes of a network: its native share, what falls back and why, and the error beside float64."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from bench.zoo.entry import Entry, NotInstalled, version
from rtaccel.core.errors import RtaccelError

OTHER_BATCH = 3
STATUSES = ("native", "partial", "not captured", "refused", "failed", "timed out", "crashed", "broken", "left out")
"""Wholly native; some calls fall back; runs layer by layer in Python; refused with a typed error; another error; the limit of
time or the process ended; the network does not run in torch itself with these versions; its package is not installed."""


@dataclass(frozen=True)
class Fallback:
    """An operator that falls back to PyTorch: how often, why, and with which arguments."""

    operator: str
    count: int
    reasons: list[str]
    arguments: list[str]


@dataclass(frozen=True)
class Survey:
    """One network. error: the largest over all outputs of rms of the difference over rms of the float64 result.

    error_other: the same with a batch of OTHER_BATCH; None where the compiled model takes no other batch, `other` says why.
    eager_error: of the network itself in float32. reference: dtype of the network that `error` is beside.
    touched: what compiling did to the network itself, which is a defect. wrapped: what a wrapper around the network does.
    """

    name: str
    domain: str
    package: str
    status: str
    version: str | None = None
    reason: str = ""
    inputs: list[str] = field(default_factory=list)
    parameters: int = 0
    native: int = 0
    stages: int = 0
    fallbacks: list[Fallback] = field(default_factory=list)
    compile_seconds: float | None = None
    error: float | None = None
    error_other: float | None = None
    other: str = ""
    eager_error: float | None = None
    reference: str = "float64"
    touched: str = ""
    wrapped: str = ""

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "", [])}

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Survey:
        fallbacks = [Fallback(**one) for one in stored.get("fallbacks", [])]
        return Survey(**{**stored, "fallbacks": fallbacks})


def survey(entry: Entry) -> Survey:
    """Builds, compiles and compares one network; whatever goes wrong becomes its status and reason."""
    known: dict[str, Any] = {
        "name": entry.name, "domain": entry.domain, "package": entry.package, "version": version(entry.package),
        "wrapped": entry.wrapped,
    }  # fmt: skip
    try:
        model, inputs = entry.build()
        with torch.no_grad():
            before = leaves(model(*inputs))
            steady = same(before, leaves(model(*inputs)))
    except NotInstalled as reason:
        return Survey(**known, status="left out", reason=str(reason))
    except Exception as error:  # what a package raises with these versions is a result here
        return Survey(**known, status="broken", reason=said(error))
    known["inputs"] = [describe(leaf) for leaf in pytree.tree_leaves(inputs)]
    known["parameters"] = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fast: Any = rt.compile(model, inputs)
    except RtaccelError as error:
        return Survey(**known, status="refused", reason=said(error))
    except Exception as error:  # an error of no type of ours is a defect, and is reported as one
        return Survey(**known, status="failed", reason=said(error))
    known["compile_seconds"] = round(time.perf_counter() - start, 2)
    known["touched"] = touched(model, inputs, before if steady else None)
    if not hasattr(fast, "explain_lines"):
        return Survey(**known, status="not captured", reason=fast.reason)
    own, count = fast.native
    known |= {"native": own, "stages": count, "fallbacks": fallbacks(fast)}
    try:
        known |= errors(model, fast, inputs)
    except Exception as error:  # a compiled model that raises where the network does not
        return Survey(**known, status="failed", reason=said(error))
    return Survey(**known, status="native" if own == count else "partial")


@torch.no_grad()
def touched(model: nn.Module, inputs: Sequence[Any], before: Sequence[Tensor] | None) -> str:
    """What compiling did to the network itself; empty where its results are the same as before.

    before: None for a network that draws random numbers in eval mode, of which only a call that raises is told.
    """
    try:
        after = leaves(model(*inputs))
    except Exception as error:  # a network that ran before
        return f"the network no longer runs: {said(error)}"
    return "" if before is None or same(before, after) else "the network's own results are others than before"


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Bit for bit, NaN counted as equal to NaN."""
    if len(first) != len(second):
        return False
    return all(a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in zip(first, second))


def fallbacks(fast: Any) -> list[Fallback]:
    """Grouped by operator, the most frequent first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for step in fast._executor.steps:
        node = getattr(step.source, "node", None)
        if isinstance(node, fx.Node):
            found.setdefault(operator_name(node.target), []).append((step.reason, call(node)))
    grouped = [
        Fallback(name, len(calls), distinct([r for r, _ in calls], 3), distinct([a for _, a in calls], 4))
        for name, calls in found.items()
    ]
    return sorted(grouped, key=lambda one: (-one.count, one.operator))


def distinct(texts: Sequence[str], most: int) -> list[str]:
    return list(dict.fromkeys(texts))[:most]


def operator_name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def call(node: fx.Node) -> str:
    """The arguments of a call with dtypes and shapes, and what comes out: `(float32[B, 8], 1) -> float32[B, 8]`."""
    given = [argument(a) for a in node.args] + [f"{name}={argument(a)}" for name, a in node.kwargs.items()]
    return f"({', '.join(given)}) -> {argument(node)}"


def argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return argument(value.meta.get("val", value.name))
    if isinstance(value, Tensor):
        return describe(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(argument(v) for v in value) + "]"
    return str(value)[:40]


def describe(value: Any) -> str:
    """A tensor as its dtype and shape, with B for a dynamic batch."""
    if not isinstance(value, Tensor):
        return repr(value)[:40]
    shape = ", ".join(
        str(int(d)) if str(d).isdigit() else "B" if str(d).startswith("s") else str(d) for d in value.shape
    )
    return f"{str(value.dtype).removeprefix('torch.')}[{shape}]"


def errors(model: nn.Module, fast: Any, inputs: Sequence[Any]) -> dict[str, Any]:
    """Fields of Survey about errors. Raises what the compiled model raises for the example's batch."""
    want, dtype = reference(model, inputs)
    found: dict[str, Any] = {"reference": dtype, "error": difference(fast(*inputs), want)}
    with torch.no_grad():
        found["eager_error"] = difference(model(*inputs), want)
    others = other_batch(inputs)
    if others is None:
        return found | {"other": "the inputs share no batch"}
    try:
        want, _ = reference(model, others)
    except Exception as error:  # networks with a batch of their own, as with states in a buffer
        return found | {"other": f"the network itself takes no other batch: {said(error)}"}
    try:
        return found | {"error_other": difference(fast(*others), want)}
    except RtaccelError as error:
        return found | {"other": said(error)}


@torch.no_grad()
def reference(model: nn.Module, inputs: Sequence[Any]) -> tuple[list[Tensor], str]:
    """Results of the network in float64, or in float32 where it has that dtype in its code; and which of the two."""
    try:
        wide = copy.deepcopy(model).double()
        given = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, tuple(inputs))
        return leaves(wide(*given)), "float64"
    except Exception:  # float32 written into a network: it is its own reference, and the survey says so
        return leaves(model(*inputs)), "float32"


def other_batch(inputs: Sequence[Any], size: int = OTHER_BATCH) -> tuple[Any, ...] | None:
    """The inputs `size` times with other values, or None where not all tensors have a first dimension of 1."""
    tensors = [leaf for leaf in pytree.tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
    if not tensors or any(t.dim() == 0 or t.shape[0] != 1 for t in tensors):
        return None
    draw = torch.Generator().manual_seed(5)

    def widened(tensor: Tensor) -> Tensor:
        repeated = tensor.repeat_interleave(size, 0)
        if not tensor.is_floating_point():
            return repeated
        return repeated * (0.5 + torch.rand(size, *[1] * (tensor.dim() - 1), generator=draw))

    return tuple(pytree.tree_map_only(Tensor, widened, tuple(inputs)))


def difference(result: Any, want: Sequence[Tensor]) -> float:
    """The largest over the outputs: rms of the difference over rms of what is wanted; infinite where outputs are missing."""
    got = leaves(result)
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want)):
        return float("inf")
    return max((_one(a.double(), b.double()) for a, b in zip(got, want) if b.numel()), default=0.0)


def _one(got: Tensor, want: Tensor) -> float:
    rms = want.square().mean().sqrt().item()
    return (got - want).square().mean().sqrt().item() / (rms or 1.0)


def leaves(result: Any) -> list[Tensor]:
    """The tensors of a result; complex ones as pairs of real numbers."""
    found = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in found]


def said(error: BaseException) -> str:
    """Type and text on one line of at most 400 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
