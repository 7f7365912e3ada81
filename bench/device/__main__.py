"""The command line. See `bench/device/__init__.py`, or --help."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench.device import install, journal, machine, page, probe, rehearsal, table
from bench.device.row import Row, resolve
from bench.device.supervisor import Clock, Interrupted, Supervisor, cores
from rtaccel.core.errors import FormatError, RtaccelError

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results"
KEPT = ROOT / "build" / "device"
"""Kernels that were built ahead, and Triton's cache: they serve the next run on this machine."""

PREPARE_PART = 0.17
"""Of the time of a run, for building kernels ahead; with 9.5 minutes that is 97 s."""

REHEARSED_CORES = 16
"""Stand-ins sleep, so that they need no cores."""

PRELOADED = (
    "torch", "triton", "triton.language", "rtaccel", "rtaccel.runtime.compiler", "rtaccel.runtime.stream",
    "rtaccel.kernels._gpu.triton_aot", "bench.device.rows.null",
    "bench.device.rows.persistent", "bench.device.rows.graphs", "bench.device.rows.streams",
    "bench.device.rows.sparse", "bench.device.prepare",
)  # fmt: skip
"""Imported once, before processes are forked. None of them touches CUDA."""


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    args = parser().parse_args(argv)
    try:
        if args.what == "setup":
            return install.setup()
        if args.what == "report":
            return report(Path(args.file)) if args.file else parser().error("report: name the .jsonl of a run")
        return measure(args, started)
    except RtaccelError as error:
        print(error, file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.device", description=importlib.import_module("bench.device").__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("what", nargs="?", default="measure", choices=("measure", "checks", "setup", "report"))
    made.add_argument("file", nargs="?", help="of report: the .jsonl of a run")
    made.add_argument("--minutes", type=_positive, default=9.5, help="how long the whole run may take (default: 9.5)")
    made.add_argument(
        "--seconds", type=_positive, default=1.0, help="of calls of a row, twice that of a persistent one (default: 1)"
    )
    made.add_argument("--out", type=Path, help="folder of the results (default: $OUT, or bench/results)")
    made.add_argument("--skip-checks", action="store_true", help="figures alone; `checks` is a command of its own")
    made.add_argument("--rehearse", action="store_true", help="on stand-ins, without a card")
    made.add_argument(
        "--factor", type=_positive, default=30.0, help="by what the times of a rehearsal are divided (default: 30)"
    )
    made.add_argument("--rows", metavar="MODULE:FUNCTION", help="these rows instead of the table, as a rehearsal")
    return made


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


# -- a run -------------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, started: float) -> int:
    on_stand_ins = args.rehearse or args.rows is not None
    found = {"reason": None, "card": "rehearsal"} if on_stand_ins else probe.probe()
    if found["reason"] is not None:
        print(
            f"No GPU to measure: {found['reason']}.\nGPU figures stay open. Next: run this on a machine with an NVIDIA GPU."
        )
        return 0
    rows, minutes = planned(args)
    with tempfile.TemporaryDirectory(prefix="rtaccel-device-") as folder:
        settle(found, Path(folder), on_stand_ins)
        book = open_journal(folder_of(args, on_stand_ins), str(found["card"]))
        head = {k: v for k, v in found.items() if k != "reason"} | {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "command": " ".join(sys.argv[1:]),
            "minutes": minutes, "rehearsal": on_stand_ins, "planned": sum(len(row.names) for row in rows),
            "machine": machine.record(),
        }  # fmt: skip
        book.add("run", **head)
        if not on_stand_ins:
            preload(book)
        supervisor = Supervisor(book, Clock(minutes, started), book.path.with_suffix(".log"))
        how = go(rows, supervisor, minutes, REHEARSED_CORES if on_stand_ins else cores())
        book.add("end", how=how, at_s=round(time.monotonic() - started, 3), machine=machine.record())
        book.close()
    code = report(book.path)
    return 130 if how == "was interrupted" else code


def planned(args: argparse.Namespace) -> tuple[list[Row], float]:
    """(rows, minutes) of the command."""
    if args.rows is not None:
        return list(resolve(args.rows)()), args.minutes
    rows = table.rows(args.seconds)
    if args.what == "checks":
        rows = [row for row in rows if row.check]
    elif args.skip_checks:
        rows = [row for row in rows if row.canary or not row.check]
    if args.rehearse:
        return rehearsal.rows(rows, args.factor), args.minutes / args.factor
    return rows, args.minutes


def settle(found: dict[str, Any], scratch: Path, on_stand_ins: bool) -> None:
    """The variables that every process inherits. Set before torch is imported anywhere."""
    kept = scratch if on_stand_ins else KEPT
    os.environ.update({
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",  # streams of persistent kernels must not wait behind each other
        "TRITON_CACHE_DIR": str(kept / "triton"), "RTACCEL_KERNELS": str(kept / "kernels"),
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # torch may be asked for a card before a fork without starting CUDA
        "BENCH_DEVICE_CARD": f"{found.get('capability', 90)},{found.get('multiprocessors', 132)}",
        "BENCH_DEVICE_CLAIMS": str(scratch / "claims"),
    })  # fmt: skip
    os.environ.pop("TRITON_INTERPRET", None)
    for name in ("TRITON_CACHE_DIR", "RTACCEL_KERNELS", "BENCH_DEVICE_CLAIMS"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)


def preload(book: journal.Journal | None = None) -> None:
    """What breaks when it is imported breaks the rows that need it, and not the run."""
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*")
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception as error:
            if book is None:
                raise
            book.add("note", text=f"{name} cannot be imported: {type(error).__name__}: {error}")


def go(rows: Sequence[Row], supervisor: Supervisor, minutes: float, workers: int) -> str:
    """Runs it all, building kernels with so many processes; how it ended."""
    with interruptible():
        try:
            supervisor.run([row for row in rows if row.early])
            supervisor.prepare(rows, PREPARE_PART * 60 * minutes, workers)
            supervisor.run([row for row in rows if not row.early])
        except Interrupted:
            return "was interrupted"
        finally:
            supervisor.stop()
    return "ended"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A signal to end ends the row that runs, and what was measured becomes a page."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- files -------------------------------------------------------------------------------------------------------------


def folder_of(args: argparse.Namespace, on_stand_ins: bool) -> Path:
    folder = args.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else None)
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="rtaccel-rehearsal-")) if on_stand_ins else RESULTS
    if on_stand_ins and folder.resolve() == RESULTS:
        raise FormatError(
            "bench.device", f"--out {folder}", "another folder for a rehearsal", "Figures alone belong there."
        )
    return folder


def open_journal(folder: Path, card: str) -> journal.Journal:
    stem = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + "-" + datetime.date.today().isoformat()
    number = 1
    while True:
        try:
            return journal.Journal(folder / (f"{stem}.jsonl" if number == 1 else f"{stem}-{number}.jsonl"))
        except FileExistsError:
            number += 1


def report(path: Path) -> int:
    """One JSON and one page beside the rows. 1 where a check failed."""
    found = journal.read(path)
    text = page.render(found)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {path.with_suffix('.json')} and {path.with_suffix('.md')}")
    bad = page.failures(found)
    if bad:
        print(f"next: mend what failed before any of these figures is used: {', '.join(bad)}")
        return 1
    if not found["run"].get("rehearsal"):
        print("next: compare with docs/how-to/gpu.md, and commit the two files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
