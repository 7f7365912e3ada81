"""A function over the entries of a first dimension, in turn (`scan`) or each by itself (`map`): its calls, once for each.

How many there are is a size, so no number decides it. Loops over time steps are rolled again afterwards, as those of Python are.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.subgraphs.inline import RULES, Call

MAX_CALLS = 50_000
"""Of entries times calls for each: longer ones stay as they are."""


def _scan(call: Call) -> Sequence[fx.Node] | None:
    function, carried, entries, others = call.args
    return _over_entries(call, function, list(carried), entries, others)


def _map(call: Call) -> Sequence[fx.Node] | None:
    function, entries, others = call.args
    return _over_entries(call, function, [], entries, others)


def _over_entries(
    call: Call, function: fx.Node, carried: list[fx.Node], entries: Sequence[fx.Node], others: Sequence[fx.Node]
) -> Sequence[fx.Node] | None:
    """The last of what is carried, and what each entry gives, stacked."""
    if not entries:
        return None
    count, part = entries[0].meta["val"].shape[0], call.subgraph(function)
    if not isinstance(count, int) or count < 1 or count * len(part.nodes) > MAX_CALLS:
        return None
    made: list[list[fx.Node]] = []
    kept = len(carried)
    for at in range(count):
        one = [call.write(aten.select.int, entry, 0, at) for entry in entries]
        found = call.copied(part, [*carried, *one, *others])
        if not all(isinstance(result, fx.Node) for result in found):
            return None
        carried = found[:kept]
        made.append(found[kept:])
    return [*carried, *(call.write(aten.stack.default, list(each)) for each in zip(*made))]


RULES |= {"torch.scan": _scan, "torch.map_impl": _map}
