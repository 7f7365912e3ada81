"""Many puts from several processes that are killed all the time: nothing lost, doubled, or called in time when late.

    python -m bench.soak.kills [--puts 1e8] [--processes 8] [--streams 10000] [--kill-s 1.5] [--json FILE]

Clients put through the door of a batcher (`StreamBatcher.share`), each for streams of its own, several of a stream at once too.
Every 1.5 s one of them is killed with SIGKILL, wherever it is, and another takes its place; some die before they are connected.
The network gives back its first two inputs and adds up the third: the sample (stream, number, 1) comes back as (stream, number,
steps of this stream so far), all exact in float32. So an answer that belongs to another sample, a step that is missing and one
that is made twice are seen at once:

- each put of a living client has one answer, with its own stream and number, and "ok" only up to its deadline;
- the steps of a stream go up by exactly one for each answer that was stepped; over a kill by what was under way at most;
- at the end the steps in the states are what the batcher counted, and its puts are what became of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BUNCH, UNDER_WAY = 512, 3
"""Puts of a call, and calls that a client has under way."""
COUNTS = ("put", "ok", "late", "replaced", "dropped", "refused", "full", "wrong")
OK, LATE, FULL = 0, 1, -1
TWICE = 0.05
"""Share of puts of a stream that has one in the same call."""


def tables(folder: Path, processes: int, streams: int) -> tuple[Any, Any]:
    """(counts [processes, COUNTS], steps seen [streams]), in files that all share."""
    made = []
    for name, shape in (("counts", (processes, len(COUNTS))), ("steps", (streams,))):
        path = folder / name
        mode: Any = "r+" if path.exists() else "w+"
        made.append(np.memmap(path, np.int64, mode, shape=shape))
    return made[0], made[1]


def client(name: str, folder: Path, number: int, processes: int, streams: int, seed: int) -> int:
    """Puts until the file `stop` is there."""
    from rtaccel.serve.door import BatcherClient

    counts, steps = tables(folder, processes, streams)
    row, rng = counts[number], np.random.default_rng(seed)
    own = np.arange(number, streams, processes)
    fresh = np.ones(streams, bool)  # what the client before had under way is not known
    stop, serial = folder / "stop", seed % 1000
    with BatcherClient(name) as door:
        handles = door._native
        waiting: list[tuple[Any, ...]] = []
        while not (ending := stop.exists()) or waiting:
            if not ending:
                chosen = rng.permutation(own)[:BUNCH]
                chosen = np.concatenate([chosen, chosen[rng.random(len(chosen)) < TWICE]])
                numbers = (serial + np.arange(len(chosen))) % (1 << 24)
                serial = int(numbers[-1]) + 1
                x = np.stack([chosen, numbers, np.ones(len(chosen))], 1).astype(np.float32)
                waiting.append((chosen, numbers, handles.put_many(chosen, x.reshape(-1).view(np.uint8), None)))
                row[0] += len(chosen)
            if waiting and (ending or len(waiting) >= UNDER_WAY):
                check(row, steps, fresh, *waiting[0][:2], *handles.take_many(waiting.pop(0)[2], 60 * 10**9))
    return 0


def check(row: Any, steps: Any, fresh: Any, chosen: Any, numbers: Any, status: Any, late: Any, y: Any) -> None:
    """Counts what became of these puts, and whatever is wrong with it."""
    stepped = (status == OK) | (status == LATE)
    y = y.view(np.float32).reshape(len(chosen), 3)[stepped].astype(np.int64)
    wrong = np.count_nonzero((y[:, 0] != chosen[stepped]) | (y[:, 1] != numbers[stepped]))
    wrong += np.count_nonzero((status == OK) & (late > 0)) + np.count_nonzero((status == LATE) & (late <= 0))
    for stream, count in zip(chosen[stepped].tolist(), y[:, 2].tolist()):
        before = int(steps[stream])
        most = 1 + (2 * UNDER_WAY if fresh[stream] else 0)
        wrong += not before + 1 <= count <= before + most
        steps[stream], fresh[stream] = count, False
    for index, code in enumerate((OK, LATE, 2, 3, 4, FULL)):
        row[1 + index] += np.count_nonzero(status == code)
    row[7] += wrong + np.count_nonzero((status < FULL) | (status > 4))


class Family:
    """The clients: as many as there are to be, one killed now and then."""

    def __init__(self, name: str, folder: Path, processes: int, streams: int) -> None:
        self._words = [sys.executable, "-m", "bench.soak.kills", "--client", name, str(folder)]
        self._sizes = [str(processes), str(streams)]
        self.alive: list[subprocess.Popen[bytes]] = []
        self.kills, self._seed = 0, 0
        for number in range(processes):
            self.alive.append(self._start(number))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        self._seed += 1
        words = [*self._words, str(number), *self._sizes, str(self._seed)]
        return subprocess.Popen(words, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})

    def kill_one(self, dice: random.Random) -> None:
        number = dice.randrange(len(self.alive))
        self.alive[number].send_signal(signal.SIGKILL)
        self.alive[number].wait(30)
        self.kills += 1
        self.alive[number] = self._start(number)

    def end(self) -> list[int]:
        return [process.wait(120) for process in self.alive]

    def kill_all(self) -> None:
        for process in self.alive:
            process.kill()
            process.wait(30)


def network() -> Any:
    import torch

    rnn = torch.nn.RNN(3, 3, nonlinearity="relu", bias=False, batch_first=True).eval()
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.eye(3))
        rnn.weight_hh_l0.copy_(torch.diag(torch.tensor([0.0, 0.0, 1.0])))
    return rnn


def run(
    puts: float, processes: int, streams: int, kill_s: float, deadline_us: float, say: Any = None
) -> dict[str, Any]:
    """What a run came to; `faults` is empty where all holds."""
    import torch

    import rtaccel as rt

    live = rt.stream(network(), torch.zeros(streams, 3))
    name, dice = f"kills-{os.getpid()}", random.Random(1)
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        counts, _ = tables(folder, processes, streams)
        hub = stack.enter_context(rt.StreamBatcher(live, deadline_us=deadline_us))
        door = hub.share(name, clients=2 * processes, places=2 * BUNCH * UNDER_WAY)
        begun, family = time.monotonic(), Family(name, folder, processes, streams)
        stack.callback(family.kill_all)
        kill_at = begun + kill_s
        while int(counts[:, 0].sum()) < puts:
            time.sleep(0.02)
            if time.monotonic() > kill_at:
                family.kill_one(dice)
                kill_at = time.monotonic() + kill_s
                if say is not None:
                    say(int(counts[:, 0].sum()), family.kills)
        took = time.monotonic() - begun
        (folder / "stop").touch()
        codes = family.end()
        time.sleep(0.5)  # the door sees who left
        through = door.stats()
        hub.stop()
        stats, total = hub.stats(), dict(zip(COUNTS, counts.sum(0).tolist()))
    steps = int(live.step(torch.zeros(streams, 3))[:, 2].double().sum())
    under_way = family.kills * UNDER_WAY * 2 * BUNCH
    known = sum(total[key] for key in COUNTS[1:7])
    checks = {
        "an answer that is another sample's, a step missing or made twice, or a wrong status": total["wrong"] == 0,
        "a client that failed": codes == [0] * processes,
        "puts without an answer, beyond what the killed had under way": 0 <= total["put"] - known <= under_way,
        "steps in the states that the batcher did not count": steps == stats.answered,
        "puts that became nothing": stats.put
        == stats.ok + stats.late + stats.replaced + stats.dropped + stats.refused,
        "puts at the door and in the batcher that differ": through.put == stats.put == through.answered,
        "more answers than the batcher gave": total["ok"] + total["late"] <= stats.answered,
        "deaths that were none": through.died <= family.kills,
    }  # fmt: skip
    return {
        "puts": total["put"], "kills": family.kills, "seconds": took, "clients": total, "batcher": {
            "put": stats.put, "ok": stats.ok, "late": stats.late, "replaced": stats.replaced, "batches": stats.batches},
        "door": vars(through), "unknown_of_killed": total["put"] - known,
        "faults": [text for text, good in checks.items() if not good],
    }  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--client"]:
        name, folder, *numbers = sys.argv[2:]
        return client(name, Path(folder), *map(int, numbers))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puts", type=float, default=1e8)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--kill-s", type=float, default=1.5)
    parser.add_argument("--deadline-us", type=float, default=5000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    def say(puts: int, kills: int) -> None:
        print(f"\r{puts:,} puts, {kills} kills", end="", file=sys.stderr, flush=True)

    found = run(args.puts, args.processes, args.streams, args.kill_s, args.deadline_us, say)
    print(f"\n{found['puts']:,} puts of {args.processes} processes in {found['seconds']:.0f} s, {found['kills']} kills")
    print(f"clients: {found['clients']}\nbatcher: {found['batcher']}\ndoor: {found['door']}")
    print(f"{found['unknown_of_killed']:,} puts of killed clients whose answers nobody took")
    print("\n".join(f"WRONG: {text}" for text in found["faults"]) or "nothing lost, doubled, or in time when late")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
