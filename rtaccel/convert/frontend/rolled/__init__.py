"""Loops over time steps that Python wrote out, as calls over all time steps: a linear recurrence becomes one call.

`torch.stack([y_0, y_1, ...])` of results that are computed alike, each from its own time step of a tensor, is computed for all of
them at once. A chain h_t = a_t * h_(t-1) + b_t in it becomes `rtaccel::linear_scan`.
"""

from __future__ import annotations

from rtaccel.convert.frontend.rolled.loops import with_loops_rolled

__all__ = ["with_loops_rolled"]
