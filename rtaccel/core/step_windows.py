"""Windows that move along a value by less than, or as much as, a time step: what the windows of one step read."""

from __future__ import annotations

from dataclasses import dataclass

from rtaccel.core.row_traits import TimeSpan


@dataclass(frozen=True)
class StepWindows:
    """Of windows over a value that has `inner` elements a step.

    per_step: windows that begin in a step. delay: steps from that one to the last that they read. count: elements from the
    first that they read to the end of that last step, at least those of a step. offset: the first window begins there.
    """

    per_step: int
    delay: int
    count: int
    offset: int

    def span(self, of: TimeSpan, inner: int, total: int, width: int) -> TimeSpan:
        """Of what `total` windows over a value of span `of` make, `width` numbers each. inner: as they were asked for."""
        reach = -(-self.count // inner) - 1  # further steps that they read backwards
        past = -1 if of.receptive_field < 0 else of.receptive_field + reach
        steps, left = divmod(total, self.per_step)
        return TimeSpan(of.shift + self.delay, steps, past, 1, self.per_step * width, 0, left * width)


def step_windows(inner: int, stride: int, first: int, length: int) -> StepWindows | None:
    """Window p reads the elements from first + p stride on, `length` of them. first < 0: zeros come before the first step.
    None where the windows of a step are not the same in every step."""
    if stride < 1 or inner % stride:
        return None
    delay = max(0, (first + inner - stride + length - 1) // inner)
    back = (delay + 1) * inner - first
    count = max(back, inner)
    return StepWindows(inner // stride, delay, count, count - back)
