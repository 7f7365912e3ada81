"""The quantized layer that a description stands for, made empty in the size of the float layer that it will replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from rtaccel.core.errors import FormatError, RtaccelError
from rtaccel.core.scheme import W8A8
from rtaccel.nn.attention import QuantMultiheadAttention
from rtaccel.nn.conv import QuantConv1d, QuantConv2d, check_module
from rtaccel.nn.embedding import QuantEmbedding
from rtaccel.nn.linear import QuantLinear
from rtaccel.nn.recurrent import QuantGRU, QuantLSTM
from rtaccel.nn.sparse import SparseLinear
from rtaccel.nn.stored import Stored, scheme_of, sparsity_of

Words = Mapping[str, Any]
Maker = Callable[[str, Any, Words, torch.device], Stored]


def rebuilt(op: str, module: nn.Module, description: Words) -> Stored:
    """Raises FormatError where the module is not the float form of the layer that is described."""
    kind = description["layer"]
    if kind not in FLOATS:
        raise FormatError(op, f"a layer called {kind!r}", f"one of {', '.join(FLOATS)}", "Take a newer rtaccel.")
    if not isinstance(module, FLOATS[kind]):
        got, expected = f"{type(module).__name__} in the model, {kind} in the state", f"an nn.{FLOATS[kind].__name__}"
        raise FormatError(op, got, expected, "Pass the float model that was swapped.")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        return _MAKERS[kind](op, module, description, torch.device("cpu") if device.type == "meta" else device)
    except RtaccelError as error:
        raise FormatError(f"{op}: {error.op}", error.got, error.expected, error.next_step) from error


def _linear(op: str, module: nn.Linear, words: Words, device: torch.device) -> Stored:
    bias = module.bias is not None
    return QuantLinear(module.in_features, module.out_features, bias, scheme_of(op, words), device=device)


def _sparse(op: str, module: nn.Linear, words: Words, device: torch.device) -> Stored:
    return SparseLinear(
        module.in_features, module.out_features, module.bias is not None, scheme_of(op, words),
        sparsity=sparsity_of(op, words), device=device,
    )  # fmt: skip


def _conv(op: str, module: nn.Conv1d | nn.Conv2d, words: Words, device: torch.device) -> Stored:
    scheme, made = scheme_of(op, words), QuantConv1d if isinstance(module, nn.Conv1d) else QuantConv2d
    if not isinstance(scheme, W8A8):
        raise FormatError(op, f"a convolution in {scheme}", "w8a8", "Take the state as it was saved.")
    return made.empty(check_module(op, module), scheme, module.bias is not None, device)


def _recurrent(op: str, module: nn.LSTM | nn.GRU, words: Words, device: torch.device) -> Stored:
    made = QuantLSTM if isinstance(module, nn.LSTM) else QuantGRU
    return made(
        module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first, module.bidirectional,
        scheme_of(op, words), device=device,
    )  # fmt: skip


def _embedding(op: str, module: nn.Embedding, words: Words, device: torch.device) -> Stored:
    return QuantEmbedding(module.num_embeddings, module.embedding_dim, device=device)


def _attention(op: str, module: nn.MultiheadAttention, words: Words, device: torch.device) -> Stored:
    return QuantMultiheadAttention(
        module.embed_dim, module.num_heads, module.in_proj_bias is not None, module.kdim, module.vdim,
        module.batch_first, scheme_of(op, words), device=device,
    )  # fmt: skip


FLOATS: dict[str, type[nn.Module]] = {
    "QuantLinear": nn.Linear,
    "SparseLinear": nn.Linear,
    "QuantConv1d": nn.Conv1d,
    "QuantConv2d": nn.Conv2d,
    "QuantLSTM": nn.LSTM,
    "QuantGRU": nn.GRU,
    "QuantEmbedding": nn.Embedding,
    "QuantMultiheadAttention": nn.MultiheadAttention,
}
"""Class of rt.nn -> the layer whose place it takes."""

_MAKERS: dict[str, Maker] = {
    "QuantLinear": cast(Maker, _linear),
    "SparseLinear": cast(Maker, _sparse),
    "QuantConv1d": cast(Maker, _conv),
    "QuantConv2d": cast(Maker, _conv),
    "QuantLSTM": cast(Maker, _recurrent),
    "QuantGRU": cast(Maker, _recurrent),
    "QuantEmbedding": cast(Maker, _embedding),
    "QuantMultiheadAttention": cast(Maker, _attention),
}
