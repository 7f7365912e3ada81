"""What a stream says over a session, tick by tick, and what a head on it learns from labels that come late."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import rtaccel as rt
from examples.order_book import book
from examples.order_book.network import HIDDEN, Network, Tapped

CLASSES = 3
I64 = NDArray[np.int64]


def run(live: rt.StreamModel, ticks: book.F32) -> book.F32:
    """Outputs of a stream of one, [n, width], from its beginning."""
    x = torch.empty(1, ticks.shape[1])
    given = x.numpy()
    given[:] = ticks[:1]
    out = live.step(x).clone()
    live.reset()
    step, y, said = live.bind(x, out=out), out.numpy(), np.empty((len(ticks), out.shape[1]), np.float32)
    for i, tick in enumerate(ticks):
        given[0] = tick
        step()
        said[i] = y[0]
    live.reset()
    return said


def accuracy(said: book.F32, truth: I64) -> float:
    """Of the largest of three columns, over the ticks that have a label."""
    return float((said[: len(truth), :CLASSES].argmax(1) == truth).mean())


def recall(said: book.F32, truth: I64) -> float:
    """Mean over the classes of how many are found: 1/3 for whoever always says the same."""
    found = said[: len(truth), :CLASSES].argmax(1)
    return float(np.mean([(found[truth == k] == k).mean() for k in range(CLASSES)]))


class Adapted(NamedTuple):
    """served [n, 3]: what was said. committed: whether the head was served at each tick. learner: as it was in the end."""

    served: book.F32
    committed: NDArray[np.bool_]
    learner: rt.online.Adapt


def adapt(network: Network, ticks: book.F32, truth: I64) -> Adapted:
    """A head on the features learns the error of the probabilities. The label of a tick is known HORIZON ticks later."""
    live = rt.stream(Tapped(network).eval(), torch.from_numpy(ticks[:1]))

    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = live.step(x)
        return y[:, :CLASSES], y[:, CLASSES:]

    head = rt.online.RLSHead(HIDDEN + 1, CLASSES, forget=0.9997, p0=0.1)
    learner = rt.online.Adapt(both, head=head, commit=rt.online.Better(0.01, halflife=500, least=500))
    wanted = np.eye(CLASSES, dtype=np.float32)[truth][:, None]
    served, committed = np.empty((len(ticks), CLASSES), np.float32), np.empty(len(ticks), bool)
    given = torch.from_numpy(ticks)
    for i in range(len(ticks)):
        served[i] = learner(given[i : i + 1])[0]
        committed[i] = learner.committed
        known = i - book.HORIZON
        if known >= 0:
            learner.learn(wanted[known], seq=known)
    return Adapted(served, committed, learner)


def conflated(
    live: rt.StreamModel, session: book.Session, truth: I64, arrivals_us: NDArray[np.float64], period_us: float
) -> tuple[float, float]:
    """(accuracy, share of ticks stepped) where only the newest tick of each period is stepped, as from an rt.Latest."""
    cell = np.floor(arrivals_us / period_us)
    newest = np.flatnonzero(np.append(cell[1:] != cell[:-1], True))
    said = run(live, session.ticks[newest])
    known = newest < len(truth)
    return accuracy(said[known], truth[newest[known]]), len(newest) / len(cell)
