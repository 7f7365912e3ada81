"""A server of the protocol in a process of its own without torch, and calls of it in this one."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import rtaccel as rt
from rtaccel.serve.v2.app import App
from rtaccel.serve.v2.gate import Gate
from rtaccel.serve.v2.repository import Repository
from rtaccel.serve.v2.settings import Settings

MAIN = "import sys; sys.modules['torch'] = None; from rtaccel.cli.main import main; sys.exit(main(sys.argv[1:]))"
"""The command line where torch cannot be imported."""

STREAMS = 4


def save_models(folder: Path) -> tuple[Path, Path, Path]:
    """(a network, a stream of STREAMS streams, a stream of indices)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    files = folder / "net.rta", folder / "gru.rta", folder / "tagger.rta"
    rt.save(rt.compile(net, torch.randn(1, 6)), files[0])
    rt.save(rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(STREAMS, 3)), files[1])
    rt.save(rt.stream(Tagger().eval(), torch.zeros(STREAMS, dtype=torch.int64)), files[2])
    return files


class Tagger(torch.nn.Module):
    """Windows of indices, int64 [batch, time], to scores of the newest."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = torch.nn.Embedding(7, 5), torch.nn.GRU(5, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.embed(x))[0]


@dataclass
class Running:
    process: subprocess.Popen[str]
    http: str
    grpc: str | None
    port: int


@contextmanager
def running(*arguments: Any) -> Iterator[Running]:
    """`rtaccel serve --v2` on free ports; it is asked to end at the end, and must."""
    words = ["serve", *map(str, arguments), "--v2", "--port", "0", "--grpc-port", "0", "--json"]
    process = subprocess.Popen([sys.executable, "-c", MAIN, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        rpc = None if told["grpc_port"] is None else f"127.0.0.1:{told['grpc_port']}"
        yield Running(process, f"127.0.0.1:{told['port']}", rpc, told["port"])
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()


@dataclass
class Local:
    """The application in this process. Used within `asyncio.run`, through `within`."""

    gate: Gate
    app: App

    async def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, parts: int = 1
    ) -> tuple[int, dict[str, str], bytes]:
        given = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode("latin-1"), "headers": given}
        cut = [len(body) * i // parts for i in range(parts + 1)]
        messages = iter(
            [{"type": "http.request", "body": body[a:b], "more_body": b < len(body) and i < parts - 1}
             for i, (a, b) in enumerate(itertools.pairwise(cut))]
        )  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, end = sent
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, end["body"]

    async def infer(self, model: str, given: Any, **headers: str) -> tuple[int, Any]:
        body = given if isinstance(given, bytes) else json.dumps(given).encode()
        status, _, answer = await self.call("POST", f"/v2/models/{model}/infer", body, headers)
        return status, json.loads(answer)


def within(files: Any, test: Callable[[Local], Awaitable[Any]], **settings: Any) -> Any:
    """Runs a test in an event loop, on a server's application with these settings."""
    chosen = Settings(**settings)
    repository = Repository(files, chosen)
    gate = Gate(repository, chosen)

    async def run() -> Any:
        return await asyncio.wait_for(test(Local(gate, App(gate, "test"))), 120)

    try:
        return asyncio.run(run())
    finally:
        repository.close()


def tensor(name: str, values: Any, datatype: str = "FP32") -> dict[str, Any]:
    made = torch.as_tensor(values)
    return {"name": name, "datatype": datatype, "shape": list(made.shape), "data": made.tolist()}
