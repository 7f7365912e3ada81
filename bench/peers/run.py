"""A whole comparison: convert what is not in the cache, measure, keep the record, write the tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from bench.peers import report, rounds
from bench.peers.base import LeftOut, Peer
from bench.peers.data import prepare
from bench.peers.models import BY_NAME
from bench.peers.registry import kit
from bench.peers.results import Row, summarise
from bench.peers.rounds import ROOT, Timing
from rtaccel.measure.machine.environment import environment

Record = dict[str, Any]
SMALL = 1_000_000
"""Weights of the largest network that is timed with cold caches: what does not fit into them is never warm."""
COLD = """Networks of at most a million weights. 64 MiB are read before each call, so that neither weights nor code are in a
cache. The cells have: us of the fastest peer / of rtaccel, bound / ratio."""


def everything(
    models: Sequence[str],
    chosen: Sequence[Peer],
    pythons: Mapping[str, str],
    timing: Timing,
    cache: Path,
    convert_only: bool,
) -> Record:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {}
    used: dict[str, str | None] = {}
    with (cache / "log.txt").open("a") as log:
        for name in models:
            try:
                found[name] = one(name, chosen, pythons, timing, cache, convert_only, log, used)
            except LeftOut as reason:
                print(f"{name} is left out: {reason}\n", flush=True)
                continue
            if not convert_only:
                print(report.table(name, BY_NAME[name].about, found[name]) + "\n", flush=True)
    if not convert_only:
        print(report.summary(found))
        if any(row.cold_us for rows in found.values() for row in rows):
            print("\nWith cold caches:\n\n" + report.cold(found))
    record = environment()
    record["versions"] |= used
    return {
        "environment": record, "command": command(sys.argv[1:]),
        "networks": {name: [row.as_json() for row in rows] for name, rows in found.items()},
    }  # fmt: skip


def command(arguments: Sequence[str]) -> str:
    """What to type for the same again, without the files of this machine."""
    kept = list(arguments)
    for option in ("--cache", "--lock", "--out", "--python"):
        while option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return " ".join(["python -m bench.peers", *kept])


def one(
    name: str, chosen: Sequence[Peer], pythons: Mapping[str, str], timing: Timing, cache: Path, convert_only: bool, log: Any,
    used: dict[str, str | None],
) -> list[Row]:  # fmt: skip
    folder = cache / name
    _, key = prepare(name, folder)
    if sum(p.numel() for p in BY_NAME[name].module().parameters()) > SMALL:
        timing = replace(timing, cold_rounds=0)
    rows: list[Row] = []
    usable = []
    for peer in chosen:
        if not peer.fits(name):
            continue
        record: Record = {}
        if hasattr(kit(peer.kit), "convert"):
            print(f"{name}: {peer.title}, converted or from the cache", file=sys.stderr, flush=True)
            record = rounds.convert(peer, name, folder, key, pythons.get(peer.kit, sys.executable), log)
        if record.get("left_out"):
            rows.append(Row(peer.name, peer.title, peer.ours, left_out=record["left_out"]))
        else:
            usable.append(peer)
    if convert_only:
        return rows
    for process in rounds.measure(usable, name, folder, key, pythons, timing, log):
        peer = process.peer
        samples = (process.samples_ns, process.cold_ns, process.forms_ns)
        rows.append(summarise(peer.name, peer.title, peer.ours, process.said, *samples))
        used.update(process.said.get("versions", {}))
    return rows


def save(record: Record, path: Path | None, today: date) -> None:
    if path == Path("-"):
        return
    if path is None:
        cpu = re.sub(r"[^a-z0-9]+", "-", (record["environment"]["cpu"] or "cpu").lower()).strip("-")
        path = ROOT / "bench" / "results" / f"{cpu}-{today.isoformat()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten: {path}")


def merge(paths: Sequence[Path]) -> Record:
    """Records of the same machine; a network measured in several is taken from the last."""
    records = [json.loads(path.read_text()) for path in paths]
    merged: Record = records[-1]
    merged["networks"] = {name: rows for record in records for name, rows in record["networks"].items()}
    merged["networks"] = {name: merged["networks"][name] for name in BY_NAME if name in merged["networks"]}
    merged["environment"]["versions"] = {k: v for r in records for k, v in r["environment"]["versions"].items()}
    merged["command"] = "; ".join(record["command"] for record in records)
    return merged


def update_docs(record: Record, docs: Path) -> None:
    from bench.peers.chart import draw

    found = {name: [Row(**row) for row in rows] for name, rows in record["networks"].items()}
    draw(found, docs / "images" / "peers.svg")
    picture = (
        "![How many times as fast as the fastest peer rtaccel is, by network and error class](../images/peers.svg)"
    )
    parts = [picture, report.summary(found)]
    if any(row.cold_us for rows in found.values() for row in rows):
        parts += ["### With cold caches", COLD, report.cold(found)]
    report.put_between(docs / "explanation" / "performance.md", "\n\n".join(parts))
    tables = [report.table(name, BY_NAME[name].about, rows) for name, rows in found.items()]
    report.put_between(docs / "reference" / "peers.md", "\n\n".join(tables))
