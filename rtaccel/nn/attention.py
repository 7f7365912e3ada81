"""`QuantMultiheadAttention`: nn.MultiheadAttention with quantized projections and fused attention."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from rtaccel.backends import _interop as interop
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import W8A8, Scheme
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn.arrays import batches_of
from rtaccel.nn.check import dense, describe, is_plain
from rtaccel.nn.linear import QuantLinear
from rtaccel.nn.stored import EXTRA, Stored, scheme_words
from rtaccel.plan.group import Executable, Subgraph, plan_group

MAX_PLANS = 16
"""Shapes of one layer that are kept ready; with one more, all are made anew on their next use."""


class QuantMultiheadAttention(Stored):
    """Takes the place of an nn.MultiheadAttention, for inference: same call, same shapes, same masks.

    query, key and value float32 [B, T, E] with batch_first, [T, B, E] without, or [T, E]; the result has the shape of query.
    Masks are bool or float, [T, S] or [B * heads, T, S]; key_padding_mask [B, S].

    The four projections are `QuantLinear`s (q_proj, k_proj, v_proj, out_proj) of the scheme; between them

        softmax(q k^T / sqrt(head_dim) + mask) v      for each head, in float32 (contract of `attention`)

    A query whose keys are all masked gets 0 where need_weights=False, and NaN where need_weights=True, as in torch.
    need_weights=True (the default, as in torch) takes plain torch between the projections: the fused kernel never has
    the weights as a whole. So do CUDA tensors and torch.compile. Samples are independent of each other.

    Buffers are those of the four QuantLinear layers. Raises ShapeError for tensors that do not fit, FormatError for
    masks of another kind than torch takes; see `QuantLinear` for the rest.

    Example:
        >>> import torch, rtaccel as rt
        >>> layer = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
        >>> fast = rt.nn.QuantMultiheadAttention.from_float(layer, rt.W8A8(), calibration=[torch.randn(8, 10, 32)])
        >>> x = torch.randn(2, 10, 32)
        >>> fast(x, x, x, need_weights=False)[0].shape
        torch.Size([2, 10, 32])
    """

    q_proj: QuantLinear
    k_proj: QuantLinear
    v_proj: QuantLinear
    out_proj: QuantLinear
    _plans: dict[tuple[int, int, int], Executable]
    _lock: Any
    FLOAT = re.compile("(in|q|k|v)_proj_weight|in_proj_bias|bias_[kv]")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        scheme: Scheme | str | None = None,
        *,
        device: Any = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise UnsupportedProblem(
                "QuantMultiheadAttention", f"{num_heads} heads of {embed_dim} features", "heads that divide the features",
                "Choose another number of heads.",
            )  # fmt: skip
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.head_dim = embed_dim // num_heads
        self.q_proj = QuantLinear(embed_dim, embed_dim, bias, scheme, device=device)
        self.k_proj = QuantLinear(kdim or embed_dim, embed_dim, bias, scheme, device=device)
        self.v_proj = QuantLinear(vdim or embed_dim, embed_dim, bias, scheme, device=device)
        self.out_proj = QuantLinear(embed_dim, embed_dim, bias, scheme, device=device)
        self._reset_plans()

    def _reset_plans(self) -> None:
        self.__dict__["_plans"] = {}
        self.__dict__["_lock"] = threading.Lock()

    @classmethod
    def from_float(
        cls,
        module: nn.MultiheadAttention,
        scheme: Scheme | str = W8A8(),  # noqa: B008
        calibration: Tensor | Iterable[Any] | None = None,
    ) -> QuantMultiheadAttention:
        """A quantized copy of an nn.MultiheadAttention; the module itself is not changed.

        calibration: for static ranges, inputs as the layer gets them, float32 [B, T, E] with batch_first, else [T, B, E]: a
            tensor x (self-attention), or batches of x or (query, key, value).

        Raises UnsupportedProblem for another module, for bias_k, bias_v or add_zero_attn and for a
        dtype other than float32; FormatError as `QuantLinear.from_float`.
        """
        op = cls.__name__
        if not isinstance(module, nn.MultiheadAttention):
            raise UnsupportedProblem(op, type(module).__name__, "an nn.MultiheadAttention", "Pass the layer itself.")
        if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
            raise UnsupportedProblem(
                op, "bias_k, bias_v or add_zero_attn", "a layer without these", "Keep this layer as it is."
            )
        e = module.embed_dim
        same = module._qkv_same_embed_dim
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        weights = module.in_proj_weight.split(e) if same else [getattr(module, name) for name in names]
        biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.split(e)
        projections = [_linear(w, b) for w, b in zip(weights, biases)]
        out = _linear(module.out_proj.weight, module.out_proj.bias)
        observers = None
        if calibration is not None:
            observers = _observe(module, projections, calibration)
        with torch.device("meta"):
            made = cls(
                e, module.num_heads, out.bias is not None, projections[1].in_features, projections[2].in_features,
                module.batch_first, scheme,
            )  # fmt: skip
        for index, (name, linear) in enumerate(zip(("q_proj", "k_proj", "v_proj", "out_proj"), (*projections, out))):
            seen = None if observers is None else observers[index]
            setattr(made, name, QuantLinear.from_float(linear, scheme, seen))
        return made.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if not isinstance(query, Tensor) and (cupy := interop.cupy_of(query)) is not None:
            masks = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return interop.call(cupy, self, (query, key, value, *masks))
        batched = self._check(query, key, value)
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if is_causal and attn_mask is None:
            raise FormatError(
                type(self).__name__,
                "is_causal=True without attn_mask",
                "the mask too, as torch asks",
                "Pass attn_mask.",
            )
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        weights: Tensor | None = None
        if need_weights:
            context, weights = self._with_weights(q, k, v, mask)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            context = self._attend(q, k, v, mask)
        y = self.out_proj(context)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    # -- between the projections -----------------------------------------------------------------------------------

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        op = type(self).__name__
        for x in (query, key, value):
            if not isinstance(x, Tensor):
                raise ShapeError(op, describe(x), "a tensor", "Pass query, key and value as tensors.")
        ranks, batch_at = {x.dim() for x in (query, key, value)}, 0 if self.batch_first else 1
        fits = ranks in ({2}, {3}) and key.shape[:-1] == value.shape[:-1]
        if fits and query.dim() == 3:
            fits = query.shape[batch_at] == key.shape[batch_at]
        if not fits:
            got = ", ".join(describe(x) for x in (query, key, value))
            order = "[B, T, E], [B, S, E]" if self.batch_first else "[T, B, E], [S, B, E]"
            raise ShapeError(op, got, f"{order} twice, or all without B", "Key and value go together, samples too.")
        return query.dim() == 3

    def _mask(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores: [B, 1, S], [B, T, S] or [B, heads * T, S], float32."""
        (b, t, _), s, op = q.shape, k.shape[1], type(self).__name__

        def added(mask: Tensor, shapes: tuple[tuple[int, ...], ...], name: str) -> Tensor:
            kind = mask.dtype == torch.bool or mask.is_floating_point() if isinstance(mask, Tensor) else False
            if not kind or tuple(mask.shape) not in shapes:
                expected = f"{name}: bool or float, {' or '.join(str(list(shape)) for shape in shapes)}"
                raise FormatError(op, describe(mask), expected, "Pass the mask as torch takes it.")
            if mask.dtype == torch.bool:
                return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, float("-inf"))
            return mask.float()

        mask = None
        if attn_mask is not None:
            mask = added(attn_mask, ((t, s), (b * self.num_heads, t, s)), "attn_mask")
            mask = mask.expand(b, t, s) if mask.dim() == 2 else mask.reshape(b, self.num_heads * t, s)
        if padding is not None:
            every = added(padding, ((b, s),), "key_padding_mask").unsqueeze(1)
            mask = every if mask is None else mask + every
        return mask

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask_by_head(self, mask: Tensor | None, t: int) -> Tensor | None:
        if mask is None or mask.shape[1] in (1, t):
            return mask if mask is None else mask.unsqueeze(1)
        return mask.unflatten(1, (self.num_heads, t))

    def _with_weights(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = self._heads(q * self.head_dim**-0.5) @ self._heads(k).transpose(-2, -1)
        by_head = self._mask_by_head(mask, q.shape[1])
        weights = torch.softmax(scores if by_head is None else scores + by_head, -1)
        return (weights @ self._heads(v)).transpose(1, 2).flatten(2), weights

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        tensors = (q, k, v) if mask is None else (q, k, v, mask)
        native = q.device.type == "cpu" and q.numel() and k.numel() and not is_dynamo_compiling()
        if not native or not all(is_plain(x) for x in tensors):
            by_head = self._mask_by_head(mask, q.shape[1])
            y = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v), attn_mask=by_head)
            return y.transpose(1, 2).flatten(2)
        shape = (q.shape[1], k.shape[1], 0 if mask is None else mask.shape[1])
        result = self._plan(*shape).call(tuple(dense(x) for x in tensors))
        if not isinstance(result, Tensor):
            raise UnsupportedProblem(type(self).__name__, describe(q), "plain tensors", "Pass x.clone().")
        return result

    def _plan(self, t: int, s: int, mask_rows: int) -> Executable:
        with self._lock:
            found = self._plans.get((t, s, mask_rows))
            if found is None:
                if len(self._plans) >= MAX_PLANS:
                    self._plans.clear()
                found = self._plans[t, s, mask_rows] = self._make_plan(t, s, mask_rows)
            return found

    def _make_plan(self, t: int, s: int, mask_rows: int) -> Executable:
        e = self.embed_dim
        inputs = [Value("q", e, steps=t), Value("k", e, steps=s), Value("v", e, steps=s)]
        if mask_rows:
            inputs.append(Value("mask", s, steps=mask_rows))
        y = Value("y", e, steps=t)
        stage = Stage(
            "attention", "attention", tuple(inputs), (y,), {}, {"heads": self.num_heads, "head_dim": self.head_dim}
        )
        ports = tuple(GraphIO(v, 1, (v.steps, v.width)) for v in inputs)
        return plan_group(Subgraph((stage,), ports, (GraphIO(y, 1, (t, e)),)), 1)[0]

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"

    # -- state -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        return {
            "layer": type(self).__name__, "embed_dim": self.embed_dim, "num_heads": self.num_heads,
            "kdim": self.k_proj.in_features, "vdim": self.v_proj.in_features, "batch_first": self.batch_first,
            **scheme_words(self.q_proj.scheme),
        }  # fmt: skip

    def refuse_state(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        if prefix + EXTRA in state_dict:
            self.check_description(f"load {prefix}{type(self).__name__}", state_dict[prefix + EXTRA])
        for name, child in self.named_children():
            assert isinstance(child, Stored)
            child.refuse_state(state_dict, f"{prefix}{name}.")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """What one of the projections would refuse is refused before any is loaded."""
        self.refuse_state(state_dict, prefix)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_plans", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_plans()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear of these numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(dense(weight), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(dense(bias), requires_grad=False)
    return layer.eval()


def _observe(module: nn.MultiheadAttention, projections: list[nn.Linear], calibration: Any) -> list[RangeObserver]:
    """Ranges of the inputs of q_proj, k_proj, v_proj and out_proj. Raises FormatError for what is no input."""
    op = QuantMultiheadAttention.__name__
    observers = [RangeObserver(f"the input of {name} of {op}") for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    seen = False
    with torch.no_grad():
        for batch in batches_of(op, calibration):
            triple = (batch, batch, batch) if isinstance(batch, Tensor) else batch
            if (
                not isinstance(triple, (tuple, list))
                or len(triple) != 3
                or not all(isinstance(x, Tensor) for x in triple)
            ):
                raise FormatError(op, f"calibration with {describe(batch)}", "x or (query, key, value)", "Pass inputs.")
            made = []
            for x, linear, observer in zip(triple, projections, observers):
                if x.dim() not in (2, 3) or x.shape[-1] != linear.in_features or not x.is_floating_point():
                    expected = f"float[..., {linear.in_features}]"
                    raise FormatError(op, f"calibration with {describe(x)}", expected, "Pass inputs of this layer.")
                observer.observe(x)
                y = linear(x)
                y = y.unsqueeze(0) if y.dim() == 2 else y if module.batch_first else y.transpose(0, 1)
                made.append(y.unflatten(-1, (module.num_heads, -1)).transpose(1, 2))
            observers[3].observe(F.scaled_dot_product_attention(*made).transpose(1, 2).flatten(2))
            seen = True
    if not seen:
        raise FormatError(op, "calibration without a batch", "at least one", "Pass inputs of this layer.")
    return observers
