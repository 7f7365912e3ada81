"""What each option of each layer alone does to the metric and to the model's outputs.

Nothing is simulated: the layer is computed by the kernel that would be used, in a plan of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rtaccel.core.scheme import Scheme
from rtaccel.search.clock import Clock, TimeUp
from rtaccel.search.cost_model import CostModel
from rtaccel.search.metric import Metric
from rtaccel.search.workbench import Outputs

MAX_JUDGED = 200
"""Pairs of layer and option up to which the metric itself is asked about each; beyond, where it is slow, errors of the outputs
stand for drops, by what they are in plans whose drop is known."""

TIE = 0.05
"""Weight of the error of the outputs beside the drop: it decides where a coarse metric sees no difference."""


@dataclass(frozen=True)
class Sensitivity:
    """Of one option of a layer, all others as in float32.

    layer: its name.
    option: how it was computed.
    drop: of the metric; None where it was not asked.
    error: of the outputs on calibration data, rms of the difference over rms.
    bytes: of the model's weights beside float32.
    us: of the stages beside float32; None where they were not timed.
    """

    layer: str
    option: Scheme
    drop: float | None
    error: float
    bytes: int
    us: float | None = None


class Losses:
    """The sensitivities, as the knapsack takes them. told: called after each with how many there will be."""

    def __init__(self, model: CostModel, metric: Metric, outputs: Outputs, told: Callable[[int, int], None]) -> None:
        self._model, self._metric, self._outputs, self._told = model, metric, outputs, told
        self.found: dict[tuple[int, int], Sensitivity] = {}

    def measure(self, clock: Clock) -> bool:
        """Asks about each pair; gives whether there was time for all. Cheap options first, so that those are known."""
        layers = self._model.layers
        pairs = [(i, o) for o in range(1, max(len(x.options) for x in layers)) for i, x in enumerate(layers)
                 if o < len(x.options)]  # fmt: skip
        slow = len(pairs) > MAX_JUDGED and self._metric.seconds * len(pairs) > 0.4 * (clock.left - clock.kept)
        base = self._model.bench.exact.weight_bytes
        for done, (i, o) in enumerate(pairs):
            try:
                clock.check(0.0 if slow else 1.2 * self._metric.seconds)
            except TimeUp:
                return False
            model = self._model.build(self._model.single(i, o))
            drop = None if slow else self._metric.value - self._metric.judge(model).value
            error = self._outputs.error(model)
            self.found[i, o] = Sensitivity(
                layers[i].name, layers[i].options[o], drop, error, model.weight_bytes - base
            )  # fmt: skip
            self._told(done + 1, len(pairs))
        return True

    def drops(self, known: Sequence[tuple[float, float]]) -> list[np.ndarray]:
        """Predicted drop of each option: what was measured, and a little of its squared error; infinite where nothing is known.
        known: (squared error, drop) of whole plans."""
        seen = [(s.error**2, max(s.drop, 0.0)) for s in self.found.values() if s.drop is not None]
        seen = [(e, d) for e, d in [*seen, *known] if np.isfinite(e) and np.isfinite(d) and e > 0]
        per_error = sum(d for _, d in seen) / max(sum(e for e, _ in seen), 1e-300) if seen else 0.0
        per_error = per_error or 1e-9
        found = []
        for i, layer in enumerate(self._model.layers):
            row = np.full(len(layer.options), np.inf)
            row[0] = 0.0
            for o in range(1, len(layer.options)):
                s = self.found.get((i, o))
                if s is None or not np.isfinite(s.error):
                    continue
                by_error = per_error * s.error**2
                row[o] = by_error if s.drop is None else max(s.drop, 0.0) + TIE * by_error
            found.append(row)
        return found

    def sizes(self) -> list[np.ndarray]:
        return [
            np.array([0.0, *(self.found[i, o].bytes if (i, o) in self.found else 0.0 for o in range(1, len(x.options)))])
            for i, x in enumerate(self._model.layers)
        ]  # fmt: skip
