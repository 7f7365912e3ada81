"""The rule for float32 that leaves a model as float16 or bfloat16."""

from __future__ import annotations

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.decompositions.half import HALVES
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.rules import Call, rule
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role


@rule(aten._to_copy.default)
def _narrow(call: Call) -> OpNode | str:
    node, build = call.node, call.build
    made, users = node.meta["val"], list(node.users)
    if made.dtype not in HALVES or any(user.op != "output" for user in users):
        return f"casts to {made.dtype}"
    view = call.view(call["self"])
    plain = build._dense_like(view)
    if build.batch is not None and view.batch_dim != 0:
        return "layout: samples are not its first dimension"
    if not (layout.same_layout(view, plain) and layout.covers(view, build.buffers[view.base].elements)):
        view = build.packed(view)
    elements = build.buffers[view.base].elements
    if not elements:
        return "has no elements"
    build.buffers[node.name] = Buffer(elements, build.buffers[view.base].width, str(made.dtype).removeprefix("torch."))
    build.views[node.name] = View(node.name, plain.dims)
    return OpNode(with_role(Role.CAST).name, node, module_name(node), [view.base], [node.name])
