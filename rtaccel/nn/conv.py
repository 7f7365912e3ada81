"""`QuantConv1d` and `QuantConv2d`: nn.Conv1d and nn.Conv2d with int8 weights and activations, in one native call."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.compiler import is_dynamo_compiling

from rtaccel.backends import _interop as interop
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import W8A8, Scheme, parse_scheme
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn import conv_ops
from rtaccel.nn.arrays import batches_of
from rtaccel.nn.check import dense, describe, is_plain
from rtaccel.nn.params.conv import ConvShape, ConvW8A8, PackedConv, check_image
from rtaccel.nn.params.formats import refuse_rounding
from rtaccel.nn.params.linear import LinearParams, Size
from rtaccel.nn.params.linear_w8a8 import LinearW8A8
from rtaccel.nn.stored import Stored, scheme_words
from rtaccel.plan.explain import line, table

_lock = threading.RLock()
_BUFFERS = ("qweight", "weight_scale", "bias", "input_scale", "input_zero_point")


class _QuantConv(Stored):
    """What both have in common. x float32 [batch, C, *size] or [C, *size]; y float32 [batch, N, *out], whose memory is
    channels last.

        q = clamp(rint(x / input_scale) + input_zero_point, -128, 127)      static
        q = rint(x / scale), scale = max |x| of the sample / 127             dynamic, input_zero_point 0
        y = conv(q - input_zero_point, weight) * scale * weight_scale + bias

    with exact int32 sums (contract of `conv`); padding is real zero. A sample with a NaN or an infinity gives NaN
    throughout; other samples are not touched. Buffers are plain tensors: qweight int8 [N, C / groups, *kernel],
    weight_scale float32 [N], bias float32 [N] or None; static: input_scale float32 [], input_zero_point int32 [].
    y never requires grad. `.half()` and the like leave the layer as it is. A plan is packed for each size of input;
    loading, moving or replacing a buffer packs anew; after changing one in place, call `repack()`.

    Under torch.compile, torch.export, torch.jit.trace and fake tensors it is the op `torch.ops.rtaccel.conv_w8a8`.

    Raises ShapeError for an x of wrong type, device, dtype, rank or channels, or smaller than the kernel; UnsupportedProblem for
    sizes or schemes without a kernel; FormatError for parameters that are not valid.
    """

    _float: ClassVar[type[nn.Conv1d] | type[nn.Conv2d]]
    _spatial: ClassVar[int]
    qweight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    @classmethod
    def from_float(
        cls,
        module: nn.Conv1d | nn.Conv2d,
        scheme: Scheme | str = W8A8(),  # noqa: B008
        calibration: Tensor | Iterable[Tensor] | RangeObserver | None = None,
    ) -> _QuantConv:
        """A quantized copy of a float layer, on its device; the module itself is not changed.

        module: weight float32 [N, C / groups, *kernel], bias float32 [N] or None.
        calibration: inputs of this layer, float32 [batch, C, *size] or [C, *size] (a tensor, an iterable of tensors, or an
            observer that has seen them), for the static range.

        A scheme whose activation is None is static with calibration and dynamic without.
        Raises UnsupportedProblem for another type of module, a padding mode other than "zeros" and sizes that int32
        sums cannot hold; FormatError for weights that are not finite and for a static scheme without calibration.
        """
        op = cls.__name__
        if not isinstance(module, cls._float) or module.weight.dtype != torch.float32:
            got = type(module).__name__ + (f" of {module.weight.dtype}" if isinstance(module, cls._float) else "")
            raise UnsupportedProblem(op, got, f"a float32 nn.{cls._float.__name__}", "Convert it with .float() first.")
        scheme = parse_scheme(scheme)
        refuse_rounding(op, scheme)
        if not isinstance(scheme, W8A8):
            raise UnsupportedProblem(op, str(scheme), "w8a8", "Pass rt.W8A8().")
        shape = check_module(op, module)
        quant = None
        with torch.device("cpu"), torch.no_grad():
            if scheme.activation != "dynamic" and calibration is not None:
                quant = _observed(op, calibration, shape).quant(scheme.observer)
            elif scheme.activation == "static":
                raise FormatError(
                    op, "W8A8(activation='static') without calibration", "inputs of this layer",
                    "Pass calibration=, or take W8A8(activation='dynamic').",
                )  # fmt: skip
            matrix = dense(module.weight).reshape(shape.filters, -1)
            flat = LinearW8A8.quantize(op, matrix, module.bias, quant, Size(*matrix.shape))
        scheme = replace(scheme, activation="dynamic" if quant is None else "static")
        made = cls._of(shape, scheme, flat)
        return made.train(module.training)

    @classmethod
    def _of(cls, shape: ConvShape, scheme: W8A8, flat: LinearParams) -> _QuantConv:
        """flat: the numbers, the weight as a matrix [N, the rest]."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.shape, made.scheme = shape, scheme
        made.__dict__["_original"], made.__dict__["_swapped"] = None, False
        made.register_buffer("qweight", flat.weight.reshape(shape.weight_shape))
        for name in _BUFFERS[1:]:
            made.register_buffer(name, getattr(flat, name))
        made.renew()
        return made

    @classmethod
    def empty(cls, shape: ConvShape, scheme: W8A8, bias: bool, device: Any = None) -> _QuantConv:
        """A layer of zeros, to be loaded into."""
        shape.check(cls.__name__)
        matrix = Size(shape.filters, shape.products)
        return cls._of(shape, scheme, LinearW8A8.empty(matrix, bias, scheme.activation == "static", device))

    shape: ConvShape
    scheme: W8A8
    _packed: PackedConv | None
    _seen: tuple[Tensor | None, ...]

    # -- calling ---------------------------------------------------------------------------------------------------

    def forward(self, input: Tensor) -> Tensor:
        if is_dynamo_compiling() or isinstance(input, fx.Proxy):
            return self._as_op(input)
        if not isinstance(input, Tensor) and (cupy := interop.cupy_of(input)) is not None:
            return interop.call(cupy, self, (input,))
        check_image(type(self).__name__, input, self.shape, self.weight_scale.device)
        if not all(is_plain(t) for t in (input, *self._buffers.values()) if t is not None):
            return self._as_op(input)
        packed = self._pack()
        if input.dim() == self._spatial + 1:
            return packed.compute(input.unsqueeze(0))[0]
        return packed.compute(input)

    def _as_op(self, input: Any) -> Tensor:
        s = self.shape
        params = tuple(self._buffers[name] for name in _BUFFERS)
        geometry = [list(v) for v in (s.stride, s.before, s.after, s.dilation)]
        return conv_ops.conv_w8a8(input, *params, *geometry, s.groups)

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """torch.jit.trace comes here instead of to `forward`; a native call would leave no trace."""
        return self._as_op(*args, **kwargs)

    # -- what a model may ask of the layer it stands for -----------------------------------------------------------

    in_channels = property(lambda self: self.shape.channels)
    out_channels = property(lambda self: self.shape.filters)
    kernel_size = property(lambda self: self.shape.kernel)
    stride = property(lambda self: self.shape.stride)
    dilation = property(lambda self: self.shape.dilation)
    groups = property(lambda self: self.shape.groups)

    # -- packing ---------------------------------------------------------------------------------------------------

    def _pack(self) -> PackedConv:
        now = tuple(self._buffers[name] for name in _BUFFERS)
        with _lock:
            if self._packed is None or any(a is not b for a, b in zip(now, self._seen)):
                packed = PackedConv(type(self).__name__, self.shape, ConvW8A8(*now))  # type: ignore[arg-type]
                self.__dict__["_packed"], self.__dict__["_seen"] = packed, now
            assert self._packed is not None
            return self._packed

    def renew(self) -> None:
        self.__dict__["_packed"], self.__dict__["_seen"] = None, ()

    def repack(self) -> None:
        """Packs anew from the buffers at the next call; needed only after one was changed in place.

        Raises FormatError where they make no layer.
        """
        params = ConvW8A8(*(self._buffers[name] for name in _BUFFERS))  # type: ignore[arg-type]
        params.validate(type(self).__name__, self.shape)
        self.renew()

    def explain(self, *size: int) -> str:
        """The stage for an input of this size: the kernel chosen, and those rejected with the reasons."""
        packed = self._pack()
        packed.plan(size or tuple(max(1, (k - 1) * d + 1) for k, d in zip(self.shape.kernel, self.shape.dilation)))
        return table(line(choice) for choice in packed.choices)

    def extra_repr(self) -> str:
        s = self.shape
        return (
            f"{s.channels}, {s.filters}, kernel_size={s.kernel}, stride={s.stride}, padding={s.before}, "
            f"dilation={s.dilation}, groups={s.groups}, bias={self.bias is not None}, scheme={self.scheme}"
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        sizes = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self.shape).items()}
        return {"layer": type(self).__name__, **sizes, **scheme_words(self.scheme), "bias": self.bias is not None}

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        named = {"weight": given["qweight"], **{name: given.get(name) for name in _BUFFERS[1:]}}
        ConvW8A8(**named).validate(op, self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_packed", "_seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.renew()


class QuantConv1d(_QuantConv):
    __doc__ = f"""nn.Conv1d with int8 weights and activations, for inference; made by `from_float`.

    {_QuantConv.__doc__}
    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.QuantConv1d.from_float(torch.nn.Conv1d(4, 8, 3, padding=1), rt.W8A8(), torch.randn(9, 4, 32))
        >>> layer(torch.randn(2, 4, 32)).shape
        torch.Size([2, 8, 32])
    """
    _float, _spatial = nn.Conv1d, 1


class QuantConv2d(_QuantConv):
    __doc__ = f"""nn.Conv2d with int8 weights and activations, for inference; made by `from_float`.

    {_QuantConv.__doc__}
    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.QuantConv2d.from_float(torch.nn.Conv2d(3, 8, 3), rt.W8A8(), torch.randn(4, 3, 16, 16))
        >>> layer(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 14, 14])
    """
    _float, _spatial = nn.Conv2d, 2


def check_module(op: str, module: nn.Conv1d | nn.Conv2d) -> ConvShape:
    """What it computes. Raises UnsupportedProblem for a padding mode or sizes that have no kernel."""
    if module.padding_mode != "zeros":
        raise UnsupportedProblem(op, f"padding_mode={module.padding_mode!r}", '"zeros"', "Pad before the layer.")
    shape = _shape_of(module)
    shape.check(op)
    return shape


def _shape_of(module: nn.Conv1d | nn.Conv2d) -> ConvShape:
    kernel, dilation = tuple(module.kernel_size), tuple(module.dilation)
    before: tuple[int, ...]
    after: tuple[int, ...]
    if isinstance(module.padding, str):
        total = [d * (k - 1) if module.padding == "same" else 0 for k, d in zip(kernel, dilation)]
        before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        before = after = tuple(int(p) for p in module.padding)
    return ConvShape(
        module.in_channels, module.out_channels, kernel, tuple(module.stride), before, after, dilation, module.groups
    )


def _observed(op: str, calibration: Any, shape: ConvShape) -> RangeObserver:
    """The range of a layer's inputs. Raises FormatError for what is not an input of this layer."""
    if isinstance(calibration, RangeObserver):
        return calibration
    observer = RangeObserver(f"the input of {op}")
    spatial = len(shape.kernel)
    for x in batches_of(op, calibration):
        fits = isinstance(x, Tensor) and x.is_floating_point() and x.dim() in (spatial + 1, spatial + 2)
        if not fits or x.shape[-spatial - 1] != shape.channels:
            expected = f"float[batch, {shape.channels}, {'T' if spatial == 1 else 'H, W'}]"
            raise FormatError(op, f"calibration with {describe(x)}", expected, "Pass inputs of this layer.")
        observer.observe(x)
    return observer
