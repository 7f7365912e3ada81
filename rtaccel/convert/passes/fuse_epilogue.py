"""Fusing: a BatchNorm, an activation or a residual goes into the layer that feeds it, so that it costs no pass of its own."""

from __future__ import annotations

from rtaccel.convert.frontend.nodes import OpNode

_WEIGHTED = ("linear", "conv")


def fold(op_nodes: list[OpNode], kept: set[str]) -> list[OpNode]:
    """Merges what can be merged; the value of a merged pair keeps the name of the later one.

    kept: names of values that something outside the nodes reads. One of these, or one read twice, must stay.
    """
    while _fold_one(op_nodes, kept):
        pass
    return op_nodes


def _fold_one(op_nodes: list[OpNode], kept: set[str]) -> bool:
    users: dict[str, list[OpNode]] = {}
    for op_node in op_nodes:
        for name in op_node.reads:
            users.setdefault(name, []).append(op_node)
    made = {name: op_node for op_node in op_nodes for name in op_node.writes}
    for op_node in op_nodes:
        if op_node.op == "torch":
            continue
        for index, name in enumerate(op_node.reads):
            source = made.get(name)
            if source is None or source.op == "torch" or name in kept or name != source.writes[0]:
                continue
            readers = users[name]
            if len(source.writes) > _own(source):
                continue
            if len(readers) == 1 and _merge(source, op_node, index):
                op_nodes.remove(source)
                return True
            if index == 0 and source.affine_only and all(_takes_affine(u, name) for u in readers):
                for user in readers:
                    _fold_forward(source, user)
                op_nodes.remove(source)
                return True
    return False


def _merge(source: OpNode, op_node: OpNode, index: int) -> bool:
    """Folds the pointwise `node` into `source`, which gives its input `index`; False where they do not merge."""
    if op_node.op != "pointwise" or source.activation != "none":
        return False
    if len(op_node.reads) == 2:
        # A residual. The sum has one rounding more than the convolution's own, in either order.
        if (
            source.op != "conv"
            or op_node.attrs.get("join", "add") != "add"
            or len(source.reads) != _own(source)
            or "scale" in op_node.tensors
            or op_node.reads[0] == op_node.reads[1]
        ):
            return False
        op_node.reads = [*source.reads, op_node.reads[1 - index]]
    elif source.op in _WEIGHTED and not (source.swapped and "scale" in op_node.tensors):
        if len(source.reads) > _own(source) and "scale" in op_node.tensors:
            return False
        if "scale" in op_node.tensors:  # computed in float64: folding should cost no precision
            scale, shift = op_node.tensors["scale"].double(), op_node.tensors["shift"].double()
            weight = source.tensors["weight"].double()
            source.tensors["weight"] = (weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))).float()
            source.tensors["bias"] = (source.tensors["bias"].double() * scale + shift).float()
        op_node.reads = source.reads
    elif source.op == "pointwise" and "scale" not in op_node.tensors:
        op_node.reads = source.reads
    else:
        return False
    op_node.writes = [op_node.writes[0], *source.writes[1:]]
    op_node.op, op_node.tensors, op_node.attrs = source.op, source.tensors, {**source.attrs, **op_node.attrs}
    if source.op in _WEIGHTED:
        op_node.name, op_node.quant, op_node.float_input = source.name, source.quant, source.float_input
    return True


def _own(op_node: OpNode) -> int:
    """Values that a node must read, and write: a convolution that is streamed has its ring beside its input."""
    return 2 if op_node.op == "conv" and op_node.attrs.get("stream") else 1


def _takes_affine(user: OpNode, name: str) -> bool:
    return user.op == "linear" and not user.swapped and user.reads == [name]


def _fold_forward(affine: OpNode, linear: OpNode) -> None:
    """linear(x * scale + shift) = (W * scale) x + (bias + W shift)."""
    weight = linear.tensors["weight"].double()
    scale, shift = affine.tensors["scale"].double(), affine.tensors["shift"].double()
    linear.tensors["bias"] = (linear.tensors["bias"].double() + weight @ shift).float()
    linear.tensors["weight"] = (weight * scale).float()
    linear.reads = list(affine.reads)
