"""`rtaccel demo`: trains an anomaly detector on real sensor data, compiles it and holds it to a latency budget."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtaccel.core.process import whole_file

if TYPE_CHECKING:
    from torch import Generator

    from rtaccel.cli._demo.verdict import Outcome
    from rtaccel.measure.budget import Budget

HELP = "train an anomaly detector on real sensor data, compile it, compare it and hold it to a latency budget"

BUDGET_US = 200.0
"""A sensor loop at 5 kHz."""

MAX_AUROC_DROP = 0.01


@dataclass(frozen=True)
class Amount:
    """How much is done. Each contestant is timed rounds * calls times."""

    steps: int
    rounds: int
    calls: int


FULL = Amount(steps=1500, rounds=40, calls=500)
QUICK = Amount(steps=150, rounds=20, calls=100)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget", type=float, default=BUDGET_US, metavar="US", help="limit on p99 in microseconds (%(default)g)"
    )
    parser.add_argument(
        "--max-auroc-drop",
        type=float,
        default=MAX_AUROC_DROP,
        metavar="DROP",
        help="detection quality that int8 may lose against float32 (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the order (%(default)d)")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="where the report goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the training and of the calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when every limit is proved, 1 when one is exceeded or cannot be decided."""
    from rtaccel.cli._demo import show
    from rtaccel.measure.budget import Budget

    budget = Budget(p99_us=args.budget, max_error=args.max_auroc_drop)
    whole_file.target_of("demo", args.out, "--out")
    outcome = conduct(QUICK if args.quick else FULL, budget, args.seed)
    report = show.write(outcome, args.out, _command(args))
    print(
        json.dumps(show.as_json(outcome, report, args.seed), indent=2, allow_nan=False)
        if args.json
        else show.text(outcome, report)
    )
    return 0 if outcome.passed else 1


def _command(args: argparse.Namespace) -> str:
    words = ["rtaccel", "demo", "--budget", f"{args.budget:g}", "--max-auroc-drop", f"{args.max_auroc_drop:g}"]
    words += ["--seed", str(args.seed), "--out", str(args.out)] + ["--quick"] * args.quick
    return shlex.join(words)


def conduct(amount: Amount, budget: Budget, seed: int) -> Outcome:
    """Load, train, compile, measure, judge. torch's thread count and random state are as before afterwards."""
    from rtaccel.cli._demo import contestants, data, train, verdict
    from rtaccel.cli._demo.progress import bar, say
    from rtaccel.measure.interleave import interleave

    recording = data.load()
    losses = [0.0]
    with _one_thread(seed) as generator:
        with bar("training", amount.steps) as advance:

            def step(loss: float) -> None:
                losses[0] = loss
                advance(loss)

            model = train.train(recording.normal, recording.width, amount.steps, generator, step)
        say("compiling")
        calibration = [data.normal_windows(recording.normal, 128, generator) for _ in range(4)]
        field = contestants.assemble(model, recording.windows, calibration)
        say(f"measuring: {amount.rounds * amount.calls:,} calls of each of {len(field.contestants)}, in turn")
        calls = {c.name: c.call for c in field.contestants}
        measured = interleave(calls, amount.rounds, amount.calls, seed=seed)
        results, aurocs = verdict.judge_field(field, recording, measured, budget)
    return verdict.Outcome(
        recording=recording,
        widths=(recording.width, *train.HIDDEN, recording.width),
        loss=losses[0],
        results=results,
        aurocs=aurocs,
        times_torch={name: measured.ratio(verdict.REFERENCE, name) for name in calls},
        outputs=field.expected.numel(),
        kernels=field.kernels,
        left_out=field.left_out,
    )


@contextmanager
def _one_thread(seed: int) -> Iterator[Generator]:
    """One torch thread and a seeded random state inside, both as before afterwards. Gives a generator for the batches."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield torch.Generator().manual_seed(seed)
    finally:
        torch.set_num_threads(threads)
