"""The command line: see `python -m bench.zoo --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.zoo.alone import LIMIT_SECONDS, survey_all
from bench.zoo.entry import entries, select
from bench.zoo.results import SURVEY, read, write
from rtaccel.measure.machine.environment import environment


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo", description="Networks of public packages, as they come."
    )
    parser.add_argument("what", choices=("survey",))
    parser.add_argument(
        "patterns", nargs="*", help="names, packages or domains; shell patterns. All where none is given"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds that one network may take")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    asked = options()
    chosen = select(asked.patterns, entries().values())
    path = asked.out or SURVEY
    record = read(path)
    record["environment"] = environment()
    survey_all(chosen, record, lambda found: write(path, found), asked.limit)


if __name__ == "__main__":
    main()
