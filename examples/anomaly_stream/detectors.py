"""The two detectors, as scores of each series that a threshold turns into alerts."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rtaccel as rt
from examples._shared.outcome import Missing
from examples.anomaly_stream.nab import Series, file_score

F64 = NDArray[np.float64]
Setting = tuple[float, ...]

RULES = ("range", "season", "jump")
NEVER = 1e299
"""A threshold that no score reaches."""

SETTINGS: list[Setting] = list(
    itertools.product((0.0025, 0.005, 0.01, 0.02, 0.04), (400, 600, 800, 1200, 1800), (2000, 4000, 6000, 8000, 12000))
)
"""Of range, season and jump, among which one is chosen."""

TREE_SETTINGS: list[Setting] = [
    (q,) for q in (0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.994, 0.996, 0.997, 0.998, 0.9985, 0.999)
]


def records_alerts(series: Series) -> Callable[[Setting], NDArray[np.intp]]:
    """The rows at which Records alerts, for any setting: each rule is scored once, over a threshold of 1."""
    parts = [
        rt.online.Records(**{rule: 1.0 if rule == one else NEVER for rule in RULES}).score_series(
            series.values, series.seconds
        )
        for one in RULES
    ]
    return lambda setting: np.flatnonzero(
        np.logical_or.reduce([part >= threshold for part, threshold in zip(parts, setting)])
    )


def tree_scores(values: F64) -> F64:
    """river's half-space trees with its own defaults, on values scaled to what was seen so far."""
    if importlib.util.find_spec("river") is None:
        raise Missing("no package river to compare with: pip install 'rtaccel[demo]', or pass --quick.")
    from river.anomaly import HalfSpaceTrees
    from river.preprocessing import MinMaxScaler

    model = MinMaxScaler() | HalfSpaceTrees(seed=0)
    scores = np.empty(len(values))
    for i, value in enumerate(values):
        x = {"value": float(value)}
        scores[i] = model.score_one(x)
        model.learn_one(x)
    return scores


def tree_alerts(series: Series) -> Callable[[Setting], NDArray[np.intp]]:
    scores = tree_scores(series.values)
    return lambda setting: np.flatnonzero(scores >= setting[0])


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of every series for every setting, [series, settings]."""

    series: Sequence[Series]
    settings: Sequence[Setting]
    scores: F64

    def chosen(self) -> dict[str, Setting]:
        """For each folder the setting that is best on all other folders."""
        folders = np.array([one.folder for one in self.series])
        return {
            str(folder): self.settings[int(self.scores[folders != folder].sum(axis=0).argmax())]
            for folder in sorted(set(folders))
        }

    def by(self, chosen: dict[str, Setting]) -> F64:
        """The score of each series by the setting of its folder, [series]."""
        places = [list(self.settings).index(chosen[one.folder]) for one in self.series]
        return self.scores[np.arange(len(places)), places]


def score_all(
    series: Sequence[Series],
    settings: Sequence[Setting],
    alerts: Callable[[Series], Callable[[Setting], NDArray[np.intp]]],
) -> Scored:
    rows = []
    for one in series:
        at = alerts(one)
        rows.append([file_score(at(s).tolist(), one.windows, len(one.values)) for s in settings])
    return Scored(series, settings, np.array(rows))


CHOSEN: dict[str, Setting] = {
    "artificialNoAnomaly": (0.005, 1200, 8000),
    "artificialWithAnomaly": (0.005, 1200, 8000),
    "realAWSCloudwatch": (0.005, 1200, 8000),
    "realAdExchange": (0.01, 1200, 8000),
    "realKnownCause": (0.005, 1200, 8000),
    "realTraffic": (0.005, 1200, 8000),
    "realTweets": (0.005, 1200, 12000),
}
"""What `chosen` gives on the 58 files of numenta/NAB; used where only some of them are there."""

TREES_CHOSEN: dict[str, Setting] = dict.fromkeys(CHOSEN, (0.998,))
"""The same for the trees."""
