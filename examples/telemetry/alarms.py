"""From a smoothed error to alarms: a threshold that follows the channel, and what a detector of drift says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.telemetry.channels import F64, Channel

RATE = 1 / 1000
"""Of the mean and deviation that the threshold is made of."""


class Rule(NamedTuple):
    """The threshold is the mean and so many deviations, and at least `floor` above the mean."""

    deviations: float
    floor: float


OF_ERRORS, OF_BOTH = Rule(3.0, 0.02), Rule(5.0, 1.0)
"""For errors of values in -1 .. 1, and for scores in units of what one row of training in a hundred exceeds."""

APART = 100
"""Rows of alarm that are closer belong to one event."""


class Threshold:
    """Of each channel, by a rule over its smoothed score. It stands still while there is an alarm, for `patience` rows.

    After that the new level is the channel's own, and the threshold follows again."""

    def __init__(self, channels: int, patience: int = 1000, rule: Rule = OF_ERRORS) -> None:
        self.rule = rule
        self.mean, self.square = np.zeros(channels), np.zeros(channels)
        self.rows, self.alarmed, self.patience = 0, np.zeros(channels, np.int64), patience

    @property
    def level(self) -> F64:
        deviation = np.sqrt(np.maximum(self.square - self.mean**2, 0))
        return self.mean + np.maximum(self.rule.deviations * deviation, self.rule.floor)

    def step(self, errors: F64, learn: bool = False) -> NDArray[np.bool_]:
        """Whether each channel alarms, float64 [channels]. learn: errors of training, which are no alarms."""
        alarm = np.zeros(len(errors), bool) if learn else errors > self.level
        self.alarmed = np.where(alarm, self.alarmed + 1, 0)
        follows = ~alarm | (self.alarmed > self.patience)
        self.rows += 1
        rate = np.where(follows, max(RATE, 1 / self.rows), 0.0)
        self.mean += rate * (errors - self.mean)
        self.square += rate * (errors**2 - self.square)
        return alarm


class Events(NamedTuple):
    """found: labeled ranges that an event reaches, of labeled. false_alarms: events outside of all of them. outside: share of the
    other rows with an alarm. level, alarm: [time]."""

    found: int
    labeled: int
    false_alarms: int
    outside: float
    level: F64
    alarm: NDArray[np.bool_]


def joined(*detectors: tuple[F64, F64]) -> tuple[F64, F64]:
    """The sum of several detectors of one channel, in training and in test: each (train, test) over what one row of training in
    a hundred exceeds."""
    sizes = [np.quantile(train[len(train) // 10 :], 0.99) + 1e-3 for train, _ in detectors]
    train, test = ([pair[part] / size for pair, size in zip(detectors, sizes)] for part in (0, 1))
    return np.sum(train, axis=0), np.sum(test, axis=0)


def events(train: F64, test: F64, channel: Channel, rule: Rule = OF_ERRORS) -> Events:
    """Of one channel from its smoothed scores, [n] and [m]."""
    threshold = Threshold(1, rule=rule)
    for error in train[len(train) // 10 :]:
        threshold.step(np.array([error]), learn=True)
    alarm, level = np.zeros(len(test), bool), np.empty(len(test))
    for t, error in enumerate(test):
        level[t] = threshold.level[0]
        alarm[t] = threshold.step(np.array([error]))[0]
    rows = np.flatnonzero(alarm)
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > APART) + 1) if len(rows) else []
    # A smoothed error falls slowly: what begins in a labeled range may end behind it.
    hit = [any(g[0] <= last and g[-1] >= first for first, last in channel.anomalies) for g in groups]
    found = sum(any(g[0] <= last and g[-1] >= first for g in groups) for first, last in channel.anomalies)
    return Events(found, len(channel.anomalies), hit.count(False), float(alarm[~channel.truth].mean()), level, alarm)


def drifts(errors: Sequence[F64]) -> list[list[int]] | None:
    """Rows at which ADWIN sees the error of each channel change; None without river."""
    try:
        from river import drift
    except ImportError:
        return None
    found = []
    for one in errors:
        detector, rows = drift.ADWIN(), []
        for t, error in enumerate(one.tolist()):
            detector.update(error)
            if detector.drift_detected:
                rows.append(t)
        found.append(rows)
    return found
