"""The command line: see `python -m bench.zoo --help`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from bench.peers.base import Peer
from bench.zoo.alone import LIMIT_SECONDS, survey_all
from bench.zoo.doors import summary as doors_summary
from bench.zoo.doors.alone import go_all
from bench.zoo.doors.through import DOORS
from bench.zoo.entry import entries, select
from bench.zoo.loaders import PEERS
from bench.zoo.results import DOORS as DOORS_FILE
from bench.zoo.results import GPU, ROOT, SURVEY, latency_file, newest_latency, read, write
from bench.zoo.run import TIMING, run_all
from bench.zoo.summary import missing_text, survey_text, surveys
from rtaccel.measure.machine.environment import environment

PAGE = ROOT / "docs" / "reference" / "zoo.md"
GPU_PAGE = PAGE.with_name("zoo-gpu.md")


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo", description="Networks of public packages, as they come."
    )
    parser.add_argument(
        "what",
        choices=("survey", "run", "doors", "page", "gpu", "list"),
        help="doors tries files, ONNX, W8A8 and odd inputs; page writes docs/reference/zoo.md; "
        "gpu counts stages without a card, and without --out writes zoo-gpu.md",
    )
    parser.add_argument(
        "patterns", nargs="*", help="names, packages or domains; shell patterns. All where none is given"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help="seconds that one network or runtime may take"
    )
    parser.add_argument("--resume", action="store_true", help="leave out the networks that the file has already")
    parser.add_argument("--out", type=Path, help="JSON file; under bench/results where not given")
    parser.add_argument("--scheme", choices=("float32", "w8a8"), default="float32", help="gpu: the scheme to count")
    parser.add_argument("--page", type=Path, help="gpu: the page to write, of what --out has")
    parser.add_argument(
        "--door", nargs="+", choices=list(DOORS), help="doors: these alone; what the file has of others is kept"
    )
    parser.add_argument("--survey", type=Path, default=SURVEY, help="page: the survey to show")
    parser.add_argument("--latency", type=Path, help="page: the latencies to show; the newest where not given")
    parser.add_argument("--peers", nargs="+", choices=[p.name for p in PEERS], help="run: these runtimes alone")
    parser.add_argument(
        "--slow", action="store_true", help="run: torch.compile too, which takes up to minutes a network"
    )
    parser.add_argument("--rounds", type=int, default=TIMING.rounds)
    parser.add_argument("--core", type=int, default=sorted(os.sched_getaffinity(0))[-1], help="run: core to pin to")
    parser.add_argument("--lock", type=Path, help="run: file to lock while timing, so that benchmarks take turns")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    asked = options(arguments)
    if asked.what == "page":
        from bench.zoo import page

        latency = asked.latency or newest_latency()
        page.write(read(asked.survey), read(latency) if latency else {}, PAGE, read(DOORS_FILE))
        return
    chosen = select(asked.patterns, entries().values())
    if asked.what == "list":
        for entry in chosen:
            print(f"{entry.name}: {entry.domain}, {entry.package}" + (f"; {entry.wrapped}" if entry.wrapped else ""))
        return
    if asked.what == "gpu":
        from bench.zoo import gpu

        path = asked.out or GPU
        record = read(path)
        if asked.resume:
            chosen = [entry for entry in chosen if entry.name not in record.get(gpu.key_of(asked.scheme), {})]
        gpu.count_all(chosen, record, lambda found: write(path, found), asked.limit, asked.scheme)
        page_of_gpu = asked.page or (None if asked.out else GPU_PAGE)
        if page_of_gpu is not None:
            page_of_gpu.write_text(gpu.page(record))
        return
    machine = environment()
    usual = {"survey": SURVEY, "doors": DOORS_FILE}.get(asked.what) or latency_file(machine["cpu"], date.today())
    path = asked.out or usual
    record = read(path) | {"environment": machine, "command": command(arguments)}
    if asked.resume:
        chosen = [entry for entry in chosen if entry.name not in record.get("networks", {})]
    if asked.what == "survey":
        survey_all(chosen, record, lambda found: write(path, found), asked.limit)
        print(survey_text(surveys(record)), missing_text(surveys(record)), sep="\n\n")
        return
    if asked.what == "doors":
        go_all(chosen, asked.door or list(DOORS), record, lambda found: write(path, found), asked.limit)
        print(doors_summary.text(doors_summary.networks(record)))
        return
    timing = replace(TIMING, rounds=asked.rounds, core=asked.core, lock=asked.lock)
    run_all(chosen, peers(asked), timing, record, lambda found: write(path, found), asked.limit)


def peers(asked: argparse.Namespace) -> list[Peer]:
    if asked.peers:
        return [peer for peer in PEERS if peer.name in asked.peers]
    return [peer for peer in PEERS if asked.slow or not peer.slow]


def command(arguments: list[str]) -> str:
    return shlex.join(["python", "-m", "bench.zoo", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
