"""`QuantEmbedding`: nn.Embedding with int8 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from rtaccel.backends import _interop as interop
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import Scheme, parse_scheme
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.formats.int8 import quantize_weight
from rtaccel.nn.check import dense, describe, is_plain
from rtaccel.nn.params.linear import MIN_SCALE
from rtaccel.nn.stored import Stored
from rtaccel.plan.group import Executable, Subgraph, plan_group

SCHEMES = ("w8a8", "w8a16")
"""Those with int8 weights: a table has no activations to quantize, so that they mean the same here."""


class QuantEmbedding(Stored):
    """y = qweight[index] * weight_scale[index]: takes the place of an nn.Embedding with a quarter of its bytes.

    index int64 or int32 of any shape, y float32 [*index.shape, embedding_dim]. qweight int8 [V, C] in -127..127,
    weight_scale float32 [V] = max_c |row| / 127; so |y - float row| <= weight_scale / 2, and one rounding.

    Raises FormatError for an index outside 0..V-1 (nothing is computed), ShapeError for another dtype or device.

    Example:
        >>> import torch, rtaccel as rt
        >>> table = rt.nn.QuantEmbedding.from_float(torch.nn.Embedding(100, 16))
        >>> table(torch.tensor([[3, 99]])).shape
        torch.Size([1, 2, 16])
    """

    qweight: Tensor
    weight_scale: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, *, device: Any = None) -> None:
        super().__init__()
        if num_embeddings < 1 or embedding_dim < 1:
            raise UnsupportedProblem(
                "QuantEmbedding", f"[V, C] = [{num_embeddings}, {embedding_dim}]", "at least one row and column",
                "Leave this table out.",
            )  # fmt: skip
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.register_buffer("qweight", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8, device=device))
        self.register_buffer("weight_scale", torch.ones(num_embeddings, dtype=torch.float32, device=device))
        self._packed: tuple[Any, Executable] | None = None

    @classmethod
    def from_float(
        cls, module: nn.Embedding, scheme: Scheme | str = "w8a16", calibration: Any = None
    ) -> QuantEmbedding:
        """A quantized copy of an nn.Embedding, weight float32 [V, C]. calibration is not needed.

        Raises UnsupportedProblem for another module, for max_norm (which changes the table as it is read) and for schemes
        without int8 weights; FormatError for rows that are not finite.
        """
        if not isinstance(module, nn.Embedding) or module.weight.dtype != torch.float32:
            raise UnsupportedProblem(
                cls.__name__, type(module).__name__, "a float32 nn.Embedding", "Pass the table itself."
            )
        if module.max_norm is not None:
            raise UnsupportedProblem(
                cls.__name__, f"max_norm={module.max_norm}", "a table that stays as it is", "Keep it."
            )
        if parse_scheme(scheme).name not in SCHEMES:
            raise UnsupportedProblem(cls.__name__, str(scheme), "a scheme with int8 weights", 'Pass "w8a16".')
        made = cls(module.num_embeddings, module.embedding_dim, device=module.weight.device)
        made.qweight, made.weight_scale = quantize_weight(dense(module.weight), cls.__name__)
        return made.train(module.training)

    def forward(self, index: Tensor) -> Tensor:
        if is_dynamo_compiling():
            return self.qweight[index].float() * self.weight_scale[index].unsqueeze(-1)
        if not isinstance(index, Tensor) and (cupy := interop.cupy_of(index)) is not None:
            return interop.call(cupy, self, (index,))
        expected = f"int64[...] on {self.weight_scale.device}"
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            raise ShapeError("QuantEmbedding", describe(index), expected, "Convert it with .long().")
        if index.layout != torch.strided:
            raise ShapeError("QuantEmbedding", f"{index.layout} {describe(index)}", expected, "Call .to_dense().")
        if index.device != self.weight_scale.device:
            raise ShapeError("QuantEmbedding", describe(index), expected, "Move the index or the table.")
        if not is_plain(index) or index.device.type != "cpu":
            return self.qweight[index].float() * self.weight_scale[index].unsqueeze(-1)
        result = self._plan().call((dense(index.reshape(-1, 1).long()),))
        if not isinstance(result, Tensor):
            raise UnsupportedProblem("QuantEmbedding", describe(index), "a plain tensor", "Pass index.clone().")
        return result.reshape(*index.shape, self.embedding_dim)

    def _plan(self) -> Executable:
        """Packed anew where a buffer became another tensor or was changed in place."""
        state = tuple((t, t._version) for t in (self.qweight, self.weight_scale))
        if self._packed is not None and all(a is b and n == m for (a, n), (b, m) in zip(self._packed[0], state)):
            return self._packed[1]
        self.check(self.qweight, self.weight_scale)
        x, y = Value("index", 1, "int64"), Value("y", self.embedding_dim)
        tensors = {"weight": dense(self.qweight), "weight_scale": dense(self.weight_scale)}
        stage = Stage("embedding", "embedding", (x,), (y,), tensors)
        plan = plan_group(Subgraph((stage,), (GraphIO(x, 1, (1,)),), (GraphIO(y, 1, (y.width,)),)), 1)[0]
        self._packed = (state, plan)
        return plan

    def check(self, weight: Any, scale: Any, op: str = "QuantEmbedding") -> None:
        """Raises FormatError where these do not make a table of this size."""
        shapes = {"qweight": (self.num_embeddings, self.embedding_dim), "weight_scale": (self.num_embeddings,)}
        for (name, shape), tensor, dtype in zip(shapes.items(), (weight, scale), (torch.int8, torch.float32)):
            good = isinstance(tensor, Tensor) and tuple(tensor.shape) == shape and tensor.dtype == dtype
            if good and not tensor.is_meta and dtype == torch.float32:
                good = bool(torch.isfinite(tensor).all() and (tensor >= MIN_SCALE).all())
            elif good and not tensor.is_meta:
                good = not bool((tensor == -128).any())
            if not good:
                raise FormatError(
                    op, f"{name}: {describe(tensor)}",
                    f"{str(dtype).removeprefix('torch.')}{list(shape)}, scales positive and finite, rows in -127..127",
                    "Take the state dict of a QuantEmbedding of this size.",
                )  # fmt: skip

    def description(self) -> dict[str, Any]:
        sizes = {"num_embeddings": self.num_embeddings, "embedding_dim": self.embedding_dim}
        return {"layer": type(self).__name__, **sizes}

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        self.check(given["qweight"], given["weight_scale"], op)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}
