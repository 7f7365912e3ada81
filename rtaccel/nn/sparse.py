"""`SparseLinear`: nn.Linear whose zeros are neither stored nor, where that is faster, multiplied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import W4A8, Float32, Int8Activation, Scheme, parse_scheme
from rtaccel.core.sparsity import BlockSparse, Sparsity, Unstructured, parse_sparsity
from rtaccel.core.stage import QParams
from rtaccel.formats import masks
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn import ops
from rtaccel.nn.check import dense, describe, is_plain
from rtaccel.nn.linear import QuantLinear, _observed
from rtaccel.nn.params.sparse import STEP, SparseParams, sparse_params
from rtaccel.nn.stored import sparsity_words


class SparseLinear(QuantLinear):
    """y = x W^T + bias with a sparse W: takes the place of an nn.Linear, for inference.

    x float32 [..., K], y float32 [..., N], K = in_features, N = out_features. The values of W are float32, or int8 with
    W8A8 activations, static or dynamic, as in QuantLinear; or, in 2:4, int4 with W4A8, a scale per group of inputs. What is
    stored: see rtaccel.nn.params.sparse and rtaccel.formats.csr, blocks, semi and int4; buffers are plain tensors.

    Whether a sparse kernel or the dense one computes it is measured when it is first called, for the rows of that call, on a GPU
    modeled: `explain()` says which, and the figures. With int8 values both give the same bits. A row with a NaN or an infinity
    gives NaN in all of that row (NaN or infinities, where float32 runs dense). The conventions are those of QuantLinear:
    inference only, copies of strided inputs, nothing cast.

    Under torch.compile, torch.export, torch.jit.trace, torch.func and fake tensors it is the op
    `torch.ops.rtaccel.sparse_linear_csr`, `_blocks`, `_semi` or `_semi_int4`.

    sparsity: the pattern that is stored.

    The layer made is all zeros, to be loaded into, whatever the number of weights in the file; `from_float` makes one from an
    nn.Linear.

    Raises ShapeError for an x of wrong type, device, dtype, rank or width; UnsupportedProblem for a size or scheme
    without a kernel; FormatError for parameters that are not valid, before anything reads by an index of theirs.

    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.SparseLinear.from_float(torch.nn.Linear(64, 32), rt.W8A8(), sparsity=rt.Unstructured(0.9))
        >>> layer(torch.randn(2, 64)).shape, layer.sparsity_reached
        (torch.Size([2, 32]), 0.8999...)
    """

    STORED = "values"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scheme: Scheme | str | None = None,
        *,
        sparsity: Sparsity | str = Unstructured(),  # noqa: B008
        device: Any = None,
    ) -> None:
        scheme = Float32() if scheme is None else parse_scheme(scheme)
        sparsity = parse_sparsity(sparsity)
        cls = sparse_params("SparseLinear", sparsity, scheme)
        empty = torch.zeros(out_features, in_features, dtype=torch.float32, device=device)
        quant = QParams(1.0, 0) if isinstance(scheme, Int8Activation) and scheme.activation == "static" else None
        params = cls.pack(
            "SparseLinear", empty, empty.new_zeros(out_features) if bias else None, scheme, sparsity, quant
        )
        self._set_up_sparse(params, scheme, sparsity)

    def _set_up_sparse(self, params: SparseParams, scheme: Scheme, sparsity: Sparsity) -> None:
        nn.Module.__init__(self)
        self.sparsity = sparsity
        self._set_up(params, scheme)

    @classmethod
    def from_float(
        cls,
        module: nn.Linear,
        scheme: Scheme | str = Float32(),  # noqa: B008
        calibration: Tensor | Iterable[Tensor] | RangeObserver | None = None,
        *,
        sparsity: Sparsity | str = Unstructured(),  # noqa: B008
        mask: Tensor | None = None,
    ) -> SparseLinear:
        """A sparse copy of an nn.Linear, on its device; the module itself is not changed.

        sparsity: a pattern. Without a fraction, the zeros that the weight has; with one, the smallest weights are left
            out too (`rt.sparsify_` has better methods).
        mask: bool [N, K], False for weights to leave out, instead of that.
        calibration: inputs of this layer, float32 [..., K], for static int8 activations, as QuantLinear.from_float takes them.

        Raises FormatError for weights that are not finite, a mask that is not of the pattern, a static scheme without
        calibration; UnsupportedProblem for a module that is not a float32 nn.Linear.
        """
        if not isinstance(module, nn.Linear) or module.weight.dtype != torch.float32:
            got = f"{type(module).__name__}" + (f" of {module.weight.dtype}" if isinstance(module, nn.Linear) else "")
            raise UnsupportedProblem(cls.__name__, got, "a float32 nn.Linear", "Convert the model with .float() first.")
        scheme, sparsity = parse_scheme(scheme), parse_sparsity(sparsity)
        params = sparse_params(cls.__name__, sparsity, scheme)
        with torch.device("cpu"), torch.no_grad():
            weight = dense(module.weight)
            if mask is None:
                mask = masks.keep(weight.abs(), sparsity)
            elif not isinstance(mask, Tensor) or mask.shape != weight.shape or mask.dtype != torch.bool:
                got = f"mask: {describe(mask)}"
                raise FormatError(cls.__name__, got, f"bool {list(weight.shape)}", "Pass a mask of the weight.")
            masks.check(cls.__name__, mask, sparsity)
            quant = _range(cls.__name__, scheme, calibration, module.in_features)
            made = cls.__new__(cls)
            kept = torch.where(mask, weight, torch.zeros_like(weight))
            made._set_up_sparse(params.pack(cls.__name__, kept, module.bias, scheme, sparsity, quant), scheme, sparsity)
        return made.train(module.training)

    @property
    def sparsity_reached(self) -> float:
        """Fraction of W that is zero."""
        return 1 - int(torch.count_nonzero(self.to_dense())) / (self.out_features * self.in_features)

    def to_dense(self) -> Tensor:
        """W float32 [N, K] with its zeros: int8 or int4 values times their scales."""
        return self._params().real()

    # -- what QuantLinear asks for ---------------------------------------------------------------------------------

    @property
    def _form(self) -> type[SparseParams]:
        return sparse_params("SparseLinear", self.sparsity, self.scheme)

    def _options_now(self) -> dict[str, int]:
        options = {"out_features": self.out_features, "in_features": self.in_features}
        return options | ({"group_size": self.scheme.group_size} if isinstance(self.scheme, W4A8) else {})

    def _params(self) -> SparseParams:
        return self._form(**self._fields(), **self._options_now())

    def _as_op(self, input: Any) -> Tensor:
        call = ops.SPARSE_OPERATORS[self._form]
        return call(input, *self._buffers.values(), *self._options_now().values())

    def explain(self) -> str:
        text = super().explain()
        return "\n".join([text, *(f"note: {note}" for note in self._pack().notes)])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sparsity={self.sparsity}, zeros={self.sparsity_reached:.1%}"

    def description(self) -> dict[str, Any]:
        return {**super().description(), **sparsity_words(self.sparsity)}

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        """The number of weights is that of the file, not of this layer."""
        values, own = given[self.STORED], self._buffers[self.STORED]
        assert own is not None
        if values.dtype != own.dtype:
            raise FormatError(op, f"values: {values.dtype}", str(own.dtype), STEP)
        if isinstance(self.sparsity, BlockSparse) and tuple(values.shape[1:]) != tuple(self.sparsity.block):
            raise FormatError(op, f"blocks of {list(values.shape[1:])}", f"{list(self.sparsity.block)}", STEP)
        self._given(given).validate(op)

    def _given(self, found: dict[str, Any]) -> SparseParams:
        named = {"weight" if name == self.STORED else name: found.get(name) for name in self._buffers}
        return self._form(**named, **self._options_now())

    def take(self, found: dict[str, Tensor], assign: bool) -> None:
        device, ranks = self.device, self._ranks()
        for name, tensor in found.items():
            self._buffers[name] = tensor if assign else tensor.detach().to(device, copy=True)
        if all(is_plain(t) for t in self._buffers.values() if t is not None):
            self._repack(ranks)


def _range(op: str, scheme: Scheme, calibration: Any, width: int) -> QParams | None:
    """What a static int8 input means; None for any other."""
    if not isinstance(scheme, Int8Activation):
        return None
    if scheme.activation != "dynamic" and calibration is not None:
        return _observed(op, calibration, width).quant(scheme.observer)
    if scheme.activation == "static":
        name = type(scheme).__name__
        raise FormatError(
            op, f"{name}(activation='static') without calibration", "inputs of this layer",
            f"Pass calibration=, or take {name}(activation='dynamic').",
        )  # fmt: skip
    return None
