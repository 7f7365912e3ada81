"""That one sequence has all time steps, as a duty of the recurrent layer that reads the lengths: it refuses the others."""

from __future__ import annotations

from torch import fx

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.packed_recurrent_ops import LONGEST, PACKED


def check_longest(graph: fx.Graph) -> None:
    """Takes the calls that say so out of a graph. Raises UnsupportedProblem where no recurrent layer reads the lengths."""
    for node in graph.find_nodes(op="call_function", target=LONGEST):
        values, lengths, _ = node.args
        layers = [user for user in lengths.users if user.target in PACKED.values() and user.args[1] is lengths]
        if not layers:
            raise UnsupportedProblem(
                "compile", "pad_packed_sequence without total_length, and no recurrent layer before it",
                "total_length: the number of time steps of what was packed", "Pass total_length=x.shape[1].",
            )  # fmt: skip
        layers[0].args = (*layers[0].args[:-1], True)
        node.replace_all_uses_with(values)
        graph.erase_node(node)
