"""The process of one runtime on one network: converts, loads, then times calls when its turn comes.

    python -m bench.zoo.timing prepare|time PEER NETWORK FOLDER - [CORE]

It speaks the protocol of bench/peers/worker.py; `prepare` writes the inputs and answers that all of them read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.base import LeftOut
from bench.peers.registry import missing, missing_tools, versions
from bench.peers.worker import answer_turns, reply, sample, settle, summary
from bench.zoo.packages import offline


def main() -> None:
    what, peer_name, network, folder, _, *core = sys.argv[1:]
    replies = settle(core)
    offline()
    from bench.zoo import case as cases
    from bench.zoo.entry import NotInstalled, entries
    from bench.zoo.loaders import BY_NAME, load

    entry, place = entries()[network], Path(folder)
    try:
        if what == "prepare":
            cases.prepare(entry, place)
            reply(replies, {"prepared": network})
            return
        peer = BY_NAME[peer_name]
        if absent := [*missing(peer), *missing_tools(peer)]:
            raise LeftOut(f"not installed: {', '.join(absent)}")
        case = cases.load(entry, place)
        runner = load(case, peer)
        error = cases.error_of(runner, case)
        estimate = min(sample(runner.call, 5, 1))
    except (LeftOut, NotInstalled) as reason:
        reply(replies, {"left_out": str(reason)})
        return
    except Exception as failure:  # what a package or another runtime raises is a result here, and is reported
        reply(replies, {"left_out": f"failed: {summary(failure)}"})
        return
    reply(replies, {"error": error, "estimate_ns": estimate, "note": runner.note, "versions": versions(peer)})
    answer_turns(runner, sys.stdin, replies)


if __name__ == "__main__":
    main()
