"""`rtaccel fit`: the fastest way to compute each layer that keeps a budget and a metric, searched and proved in a given time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rtaccel.cli._common import budget as _budget
from rtaccel.cli._common import target as _target
from rtaccel.cli._fit import progress
from rtaccel.core.errors import FormatError
from rtaccel.core.process import whole_file

HELP = "find a scheme for each layer that keeps a budget and a metric, and prove it"

GIVES = "a function fn(model) -> float, larger is better"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=_target.HELP)
    _budget.add_budget(parser)
    parser.add_argument("--metric", required=True, metavar="MODULE:FN", help=f"{GIVES}; the model is called inside")
    parser.add_argument(
        "--max-drop", default="1%", metavar="DROP", help="of the metric: 0.01, or 1%% of it (%(default)s)"
    )
    parser.add_argument("--options", default="float32,w8a8,w4a8", metavar="LIST",
                        help="of a layer: schemes, 2:4, blocks=0.8, lowrank=0.5; exit: a cascade (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN=SCHEME", help="layers not to choose for"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="wall clock for everything (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that the metric's data are dealt to")
    parser.add_argument("--html", metavar="FILE", help="write a page with the front")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rtaccel.search.fit_budget import fit_budget

    budget = _budget.parse_budget(args.budget)
    if budget is None:
        raise FormatError("fit", "no --budget", "at least one limit", "Write --budget p99=50us, for example.")
    if args.html is not None:
        whole_file.target_of("fit", args.html, "--html")
    drop, options, keep = parse_drop(args.max_drop), parse_options(args.options), parse_keep(args.keep)
    target = _target.load_target(args.target)
    metric = load_metric(args.metric)

    def judged(model: Any) -> Any:
        with _target.user_code():
            return metric(model)

    with progress.shown(args.max_drop) as told:
        fit = fit_budget(
            target.model, target.inputs, budget, target.calibration, metric=judged, max_drop=drop, options=options,
            keep=keep, seconds=args.seconds, seed=args.seed, progress=told,
        )  # fmt: skip
    if args.html is not None:
        fit.to_html(args.html)
    print(fit.to_json() if args.json else fit)
    return _budget.exit_code([fit.verdict], args.allow_undecided)


def load_metric(text: str) -> Any:
    """The function of `package.module:fn` or `file.py:fn`. Raises FormatError where there is none."""
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise FormatError("--metric", repr(text), "package.module:fn or file.py:fn", "Name the function after a colon.")
    found = getattr(_target.load_module(where, text), name, None)
    if not callable(found):
        raise FormatError("--metric", f"{text}, and there is no function {name!r} in it", GIVES, "Correct the name.")
    return found


def parse_drop(text: str) -> Any:
    """A number, or a share of the metric where it ends with %."""
    from rtaccel.search.metric import Relative

    try:
        return Relative(float(text[:-1]) / 100) if text.endswith("%") else float(text)
    except ValueError:
        raise FormatError("--max-drop", repr(text), "a number, or a share such as 1%", "Write 0.01 or 1%.") from None


def parse_options(text: str) -> list[Any]:
    """Schemes by name, patterns of sparsity as 2:4, blocks=0.8 or unstructured=0.9, lowrank=0.5, and exit or exit=entropy."""
    from rtaccel.core.layer_forms import LowRank
    from rtaccel.core.sparsity import BlockSparse, Unstructured
    from rtaccel.search.cascade.early_exit import EarlyExit

    forms: dict[str, Callable[[float], Any]] = {
        "blocks": lambda part: BlockSparse((16, 16), part), "unstructured": Unstructured, "lowrank": LowRank,
    }  # fmt: skip
    found: list[Any] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, part = word.partition("=")
        if name == "exit":
            found.append(EarlyExit(test=part or "confidence"))
            continue
        if not equals:
            found.append(word)
            continue
        try:
            found.append(forms[name](float(part)))
        except (KeyError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                "--options",
                repr(word),
                "a scheme, 2:4, blocks=0.8, unstructured=0.9, lowrank=0.5 or exit",
                "Correct it.",
            ) from None
    return found


def parse_keep(pairs: list[str]) -> dict[str, str] | None:
    keep = {}
    for pair in pairs:
        pattern, equals, scheme = pair.partition("=")
        if not equals or not pattern or not scheme:
            raise FormatError("--keep", repr(pair), "PATTERN=SCHEME", "Write --keep head=float32, for example.")
        keep[pattern] = scheme
    return keep or None
