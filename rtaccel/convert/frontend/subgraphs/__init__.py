"""Calls with graphs of their own as arguments (torch.cond, scan, map, flex_attention): their calls, in the graph around them."""

from __future__ import annotations

from rtaccel.convert.frontend.subgraphs import cond, flex_attention, scan
from rtaccel.convert.frontend.subgraphs.inline import inline_subgraphs

__all__ = ["inline_subgraphs"]

_RULES = (cond, flex_attention, scan)
"""Imported for their rules."""
