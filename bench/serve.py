"""What a server adds to a native call, over loopback: `python -m bench.serve`.

One network, ad01's size (640-128-...-8-...-640) by default, in four forms: the bare call in this process; through `rtaccel serve`
with HTTP (http.client, and Triton's client) and with gRPC (a bare channel, and Triton's client). Rounds are interleaved. Beside
them are the floors: an application of the same HTTP stack, and a gRPC method, that do nothing. One request at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rtaccel as rt

WIDTHS = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
"""Of the MLPerf Tiny autoencoder."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="of a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="a network of 48-64-12 instead")
    args = parser.parse_args()
    widths = (48, 64, 12) if args.small else WIDTHS
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    x = np.random.default_rng(0).standard_normal((1, widths[0]), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.rta"
        rt.save(rt.compile(torch.nn.Sequential(*layers[:-1]).eval(), torch.from_numpy(x)), file)
        with in_a_process(_serve, str(file)) as (port, rpc), in_a_process(_floors) as (floor, rpc_floor):
            calls = forms(file, x, port, rpc, floor, rpc_floor)
            for call in calls.values():
                for _ in range(args.calls):
                    call()
            took: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(args.rounds):
                for name, call in calls.items():
                    took[name].append(_round(call, args.calls))
    native = statistics.median(took["native call, bound"])
    print(
        f"{'-'.join(map(str, widths))}, float32, {4 * widths[0]} B in, {4 * widths[-1]} B out; median of the rounds' p50"
    )
    for name, values in took.items():
        p50 = statistics.median(values)
        print(f"{name:42}  p50 {p50:8,.1f} us   least {min(values):8,.1f}   added {p50 - native:8,.1f}")
    return 0


def forms(file: Path, x: np.ndarray, port: int, rpc: int, floor: int, rpc_floor: int) -> dict[str, Callable[[], Any]]:
    """Calls by name, each checked against the native one."""
    import grpc
    import tritonclient.grpc
    import tritonclient.http

    from rtaccel.serve.v2.messages import MESSAGES

    model = rt.load(file)
    expected = model(x)
    bound = model.bind(x, out=np.empty_like(expected))
    connections = [http.client.HTTPConnection("127.0.0.1", p) for p in (port, floor)]
    data = x.tobytes()
    entry = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()

    def http_call(connection: http.client.HTTPConnection) -> bytes:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", "/v2/models/net/infer", head + data, headers)
        return connection.getresponse().read()

    message = MESSAGES["ModelInferRequest"](model_name="net", raw_input_contents=[data])
    message.inputs.add(name="input", datatype="FP32", shape=x.shape)
    channels = [grpc.insecure_channel(f"127.0.0.1:{p}") for p in (rpc, rpc_floor)]
    methods = [
        channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        for channel in channels
    ]
    clients = [
        (tritonclient.http, tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")),
        (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{rpc}")),
    ]

    def triton(kind: Any, client: Any) -> Any:
        given = kind.InferInput("input", list(x.shape), "FP32")
        given.set_data_from_numpy(x)
        return client.infer("net", [given]).as_numpy("output")

    assert http_call(connections[0]).endswith(expected.tobytes())
    assert methods[0](message).raw_output_contents[0] == expected.tobytes()
    for kind, client in clients:
        assert (triton(kind, client) == expected).all()
    return {
        "native call, bound": bound,
        "HTTP, http.client": lambda: http_call(connections[0]),
        "HTTP that does nothing, http.client": lambda: http_call(connections[1]),
        "HTTP, tritonclient": lambda: triton(*clients[0]),
        "gRPC, a channel": lambda: methods[0](message),
        "gRPC that does nothing, a channel": lambda: methods[1](message),
        "gRPC, tritonclient": lambda: triton(*clients[1]),
    }


def _round(call: Callable[[], Any], count: int) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(times)


@contextlib.contextmanager
def in_a_process(target: Callable[..., None], *args: Any) -> Iterator[tuple[int, int]]:
    """The ports that the target sent when it listened."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join(30)


def _serve(told: Connection, file: str) -> None:
    from rtaccel.serve.v2 import Server, Settings

    Server([file], Settings(port=0, grpc_port=0)).run(lambda server: told.send((server.port, server.grpc_port)))


def _floors(told: Connection) -> None:
    import socket

    import grpc
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def method(message: bytes, context: Any) -> bytes:
        return b""

    async def run() -> None:
        server = grpc.aio.server()
        handler = {"ModelInfer": grpc.unary_unary_rpc_method_handler(method)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handler),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning", server_header=False)
        told.send((bound.getsockname()[1], port))
        await uvicorn.Server(config).serve(sockets=[bound])

    try:
        import uvloop

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    loop.run_until_complete(run())


if __name__ == "__main__":
    raise SystemExit(main())
