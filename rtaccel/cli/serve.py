"""`rtaccel serve`: models from files over the Open Inference Protocol."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rtaccel.cli._common import beside

HELP = "serve models from files over the Open Inference Protocol (REST and gRPC)"

REPLICAS = (1, 4)
"""The fewest and the most of each model."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="model.rta", help="files of rt.save; a name is the file's stem")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--v2",
        action="store_true",
        help="the Open Inference Protocol, for clients of Triton and KServe, from this process",
    )
    where.add_argument(
        "--ray", action="store_true", help="the same, computed by replicas on a Ray cluster; this process is its front"
    )
    parser.add_argument("--replicas", type=_replicas, metavar="FEWEST:MOST",
                        help="of each model with --ray; the load decides how many there are (1:4)")  # fmt: skip
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="of the cluster with --ray; else RAY_ADDRESS, or one of this machine"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s; all of them: 0.0.0.0)")
    parser.add_argument("--port", type=int, default=8000, help="of REST, 0 for a free one (%(default)s)")
    rpc = parser.add_mutually_exclusive_group()
    rpc.add_argument("--grpc-port", type=int, default=8001, help="of gRPC, 0 for a free one (%(default)s)")
    rpc.add_argument("--no-grpc", action="store_true", help="REST alone")
    parser.add_argument("--max-batch", type=int, default=64, help="rows that requests share a call for (%(default)s)")
    parser.add_argument("--max-body-bytes", type=int, default=64 << 20, help="of a request (%(default)s)")
    parser.add_argument("--max-requests", type=int, default=1024, help="under way at once (%(default)s)")
    parser.add_argument("--sequence-idle", type=float, default=60.0, metavar="S",
                        help="an idle sequence gives way after so many seconds (%(default)g)")  # fmt: skip
    parser.add_argument("--drain", type=float, default=30.0, metavar="S",
                        help="seconds for what is under way after SIGTERM (%(default)g)")  # fmt: skip
    parser.add_argument("--drain-delay", type=float, default=0.0, metavar="S",
                        help="seconds before that in which it answers and is not ready (%(default)g)")  # fmt: skip
    parser.add_argument("--tls-cert", help="PEM file of the server's certificate")
    parser.add_argument("--tls-key", help="PEM file of its key")
    parser.add_argument("--tls-client-ca", help="PEM file of who must have signed the clients' certificates")
    parser.add_argument("--token-file", help="file with bearer tokens, one a line; requests must bring one")
    parser.add_argument(
        "--repository-control", action="store_true", help="clients may load models anew and unload them"
    )
    parser.add_argument("--shared-memory", type=int, default=0, metavar="N",
                        help="clients may register so many regions of this machine's shared memory (%(default)s)")  # fmt: skip
    parser.add_argument("--shared-memory-bytes", type=int, metavar="BYTES",
                        help="of all of these together (1 GiB)")  # fmt: skip
    parser.add_argument("--verify-key", help="PEM file of the ed25519 key that every model must be signed with")
    parser.add_argument("--threads", type=int, default=1, help="of a native call (%(default)s)")
    parser.add_argument("--server-name", default="rtaccel", help="in the server's metadata (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    from rtaccel.serve.v2.server import Server
    from rtaccel.serve.v2.settings import Settings

    beside.settle("serve", args, "ray", replicas=REPLICAS, ray_address=None)
    beside.settle("serve", args, "shared_memory", shared_memory_bytes=Settings.shared_memory_bytes)
    settings = Settings(
        host=args.host,
        port=args.port,
        grpc_port=None if args.no_grpc else args.grpc_port,
        max_batch=args.max_batch,
        max_body_bytes=args.max_body_bytes,
        max_requests=args.max_requests,
        sequence_idle_s=args.sequence_idle,
        drain_s=args.drain,
        drain_delay_s=args.drain_delay,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_client_ca=args.tls_client_ca,
        tokens=_tokens(args.token_file),
        repository=args.repository_control,
        shared_memory=args.shared_memory,
        shared_memory_bytes=args.shared_memory_bytes,
        threads=args.threads,
        name=args.server_name,
    )
    server = Server(args.models, settings, args.verify_key, **_cluster(args))

    def tell(made: Server) -> None:
        names = [model.name for model in made.repository]
        if args.json:
            print(json.dumps({"serving": names, "host": settings.host, "port": made.port, "grpc_port": made.grpc_port}))
        else:
            scheme = "http" if settings.tls_cert is None else "https"
            rpc = "" if made.grpc_port is None else f", gRPC on {settings.host}:{made.grpc_port}"
            print(f"serving {', '.join(names)} on {scheme}://{settings.host}:{made.port}/v2{rpc}; Ctrl-C ends it")
            if settings.tokens and settings.tls_cert is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
                print("tokens go over the network in the clear: pass --tls-cert and --tls-key", file=sys.stderr)
        sys.stdout.flush()

    server.run(tell)
    numbers = server.gate.numbers()
    done = {"served": numbers["requests_total"], "refused": numbers["requests_refused_total"]}
    print(json.dumps(done) if args.json else f"ended after {done['served']:,} requests, {done['refused']:,} refused")
    return 0


def _cluster(args: argparse.Namespace) -> dict[str, Any]:
    """What a server on a cluster is made with besides."""
    if not args.ray:
        return {}
    from rtaccel.serve.ray import Deployment  # says what is missing where Ray is
    from rtaccel.serve.ray.front import ClusterRepository

    Deployment.join(args.ray_address)
    return {"repository": partial(ClusterRepository, replicas=args.replicas)}


def _replicas(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition(":")
    try:
        low, high = int(fewest), int(most or fewest)
    except ValueError:
        low = high = 0
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected FEWEST:MOST, whole numbers of 1 or more, such as 1:4")
    return low, high


def _tokens(path: str | None) -> tuple[str, ...]:
    from rtaccel.core.errors import FormatError

    if path is None:
        return ()
    try:
        lines = Path(path).read_text("ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError("serve", f"{path} ({error})", "a file of tokens", "Write one a line.") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise FormatError("serve", f"{path} without a token", "at least one line", "Write one a line.")
    return found
