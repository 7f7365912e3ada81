"""The command line: see `python -m bench.peers --help`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if sys.path[0] != str(ROOT):  # run as `python bench/peers`: its files must not stand where packages are looked for
    sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent)]

from bench.peers.base import MODELS  # noqa: E402
from bench.peers.registry import KITS, peers  # noqa: E402
from bench.peers.rounds import Timing  # noqa: E402

COLD_ROUNDS = 8


def options() -> argparse.Namespace:
    known = peers()
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="rtaccel beside its peers, interleaved.")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="NAME", help=", ".join(MODELS)
    )
    parser.add_argument(
        "--peers", nargs="+", default=None, choices=(*known, *KITS), metavar="NAME",
        help="rows or whole kits; all but the slow ones where not given: " + ", ".join(known),
    )  # fmt: skip
    parser.add_argument("--slow", action="store_true", help="also those that take minutes to compile (torch.compile)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--cold", action="store_true", help="also rounds with 64 MiB read before each call, for the small networks"
    )
    parser.add_argument("--core", type=int, default=sorted(os.sched_getaffinity(0))[-1], help="core to pin to")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/rtaccel-peers").expanduser(), help="converted files"
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="KIT=PATH", help="another interpreter for a kit"
    )
    parser.add_argument("--lock", type=Path, help="file to lock while timing, so that benchmarks take turns")
    parser.add_argument("--out", type=Path, help="JSON file; bench/results/CPU-DATE.json where not given, `-` for none")
    parser.add_argument("--convert-only", action="store_true", help="fill the cache and stop")
    parser.add_argument("--update-docs", action="store_true", help="write the tables and the chart into docs/")
    parser.add_argument("--from-json", type=Path, nargs="+", help="report results measured before instead of measuring")
    return parser.parse_args()


def main() -> None:
    from bench.peers import run

    asked = options()
    warnings.filterwarnings("ignore")
    known = peers()
    wanted = asked.peers or [name for name, peer in known.items() if asked.slow or not peer.slow]
    chosen = [peer for name, peer in known.items() if name in wanted or peer.kit in wanted]
    timing = Timing(rounds=asked.rounds, cold_rounds=COLD_ROUNDS if asked.cold else 0, core=asked.core, lock=asked.lock)
    pythons = dict(entry.split("=", 1) for entry in asked.python)
    if asked.from_json:
        record = run.merge(asked.from_json)
        if asked.out:
            run.save(record, asked.out, date.today())
    else:
        record = run.everything(asked.models, chosen, pythons, timing, asked.cache, asked.convert_only)
        if asked.convert_only:
            return
        run.save(record, asked.out, date.today())
    if asked.update_docs:
        run.update_docs(record, ROOT / "docs")


if __name__ == "__main__":
    main()
