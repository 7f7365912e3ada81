"""Calls of torch's kernels, as the calls that a model makes.

torch takes a layer apart before its kernel runs: a convolution of any kind is `aten.convolution`, a transform `aten._fft_r2c`. A
graph has these where a model was traced below the dispatcher, as it is where it calls `vmap` or differentiates, or where it comes
from `run_decompositions`. Rules know the calls of models.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.aten import aten

Written = tuple[Any, tuple[Any, ...]]
"""A call: its target, and its arguments."""

_CONVOLUTIONS = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}
_FORWARD = {0: "backward", 1: "ortho", 2: "forward"}
_INVERSE = {0: "forward", 1: "ortho", 2: "backward"}
"""The number by which a kernel knows how a transform is scaled, as its name for each direction."""


def _convolution(
    x: fx.Node, weight: fx.Node, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, outer: Any,
    groups: Any, *flags: bool,
) -> Written | None:  # fmt: skip
    rank = weight.meta["val"].dim() - 2
    if rank not in _CONVOLUTIONS:
        return None
    if transposed:
        return _TRANSPOSED[rank], (x, weight, bias, stride, padding, outer, groups, dilation)
    return _CONVOLUTIONS[rank], (x, weight, bias, stride, padding, dilation, groups)


def _batch_norm(
    x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Written | None:
    if training:
        return None
    return aten._native_batch_norm_legit_no_training.default, (x, weight, bias, mean, var, momentum, eps)


def _bags(
    weight: fx.Node, indices: fx.Node, offsets: fx.Node, by_frequency: bool = False, mode: int = 0,
    sparse: bool = False, weights: Any = None, last: bool = False, padding: int = -1,
) -> Written:  # fmt: skip
    return aten.embedding_bag.padding_idx, (
        weight, indices, offsets, by_frequency, mode, sparse, weights, last, None if padding == -1 else padding,
    )  # fmt: skip


def _rrelu(
    x: fx.Node, noise: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Written | None:
    return None if training else (aten.rrelu.default, (x, lower, upper))


def _trilinear(
    a: fx.Node, weight: fx.Node, b: fx.Node, of_a: Any, of_weight: Any, of_b: Any, summed: Any, unrolled: int = 1
) -> Written | None:
    if [[*dims] for dims in (of_a, of_weight, of_b, summed)] != [[1, 3], [0], [1, 2], [2, 3]]:
        return None
    return aten.bilinear.default, (a, b, weight)


def _of_real(x: fx.Node, dims: Any, scaled: int, onesided: bool) -> Written:
    return (aten.fft_rfftn if onesided else aten.fft_fftn).default, (x, None, [*dims], _FORWARD[scaled])


def _of_complex(x: fx.Node, dims: Any, scaled: int, forward: bool) -> Written:
    if forward:
        return aten.fft_fftn.default, (x, None, [*dims], _FORWARD[scaled])
    return aten.fft_ifftn.default, (x, None, [*dims], _INVERSE[scaled])


def _to_real(x: fx.Node, dims: Any, scaled: int, last: Any) -> Written | None:
    sizes = [*(x.meta["val"].shape[d] for d in [*dims][:-1]), last]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return aten.fft_irfftn.default, (x, sizes, [*dims], _INVERSE[scaled])


_CALLS: dict[Any, Callable[..., Written | None]] = {
    aten.convolution.default: _convolution,
    aten._convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten._embedding_bag.default: _bags,
    aten._embedding_bag_forward_only.default: _bags,
    aten.rrelu_with_noise.default: _rrelu,
    aten.rrelu_with_noise_functional.default: _rrelu,
    aten._trilinear.default: _trilinear,
    aten._fft_r2c.default: _of_real,
    aten._fft_c2c.default: _of_complex,
    aten._fft_c2r.default: _to_real,
}


def as_called(graph: fx.Graph) -> None:
    """Calls of kernels become those that a model makes, in place. The kernels of some give more than the call has: only where
    nothing reads that."""
    for node in list(graph.nodes):
        function = _CALLS.get(node.target) if node.op == "call_function" else None
        if function is None:
            continue
        written = function(*node.args, **node.kwargs)
        if written is None:
            continue
        gives_more = isinstance(node.meta["val"], (tuple, list)) and not _gives_several(written[0])
        if gives_more and not _only_first(node):
            continue
        node.target, node.args, node.kwargs = *written, {}
        if gives_more:
            node.meta["val"] = node.meta["val"][0]
            for reader in list(node.users):
                reader.replace_all_uses_with(node)
                graph.erase_node(reader)


def _gives_several(target: Any) -> bool:
    return len(target._schema.returns) > 1


def _only_first(node: fx.Node) -> bool:
    """Whether all that is read of the results is the first, a tensor."""
    readers = [reader for reader in node.users if reader.users or reader.target is not operator.getitem]
    first = all(reader.target is operator.getitem and reader.args[1] == 0 for reader in readers)
    return first and isinstance(node.meta["val"][0], Tensor)
