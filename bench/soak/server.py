"""`rtaccel serve` under load and faults for as long as asked: `python -m bench.soak.server [--seconds 600] [--load 0.8]`.

Callers over HTTP and gRPC first find out how much the server takes. Then they send that share of it, each answer held to the
model's own bits, stateless requests and sequences. Beside them faults go on all the time: bodies that are no JSON, wrong shapes,
steps of sequences that there are not, deadlines that have passed, connections that break in the middle of a body, callers that go
away before their answer. At the end the server is told to stop under load: what it has begun it must answer.

Nothing lost: each request has the right answer, bad ones their typed refusal, the server's own count is at least that, and
after the first tenth its memory grows by less than 4 MiB. Exit code 1 where any of that does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

import rtaccel as rt

STREAMS, FEATURES = 64, 6
GROWTH_BYTES = 4 << 20
SERVE = "from rtaccel.cli.main import main; raise SystemExit(main())"


def files(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(48, 128), torch.nn.ReLU(), torch.nn.Linear(128, 12)).eval()
    rt.save(rt.compile(net, torch.randn(1, 48)), folder / "net.rta")
    rt.save(
        rt.stream(torch.nn.GRU(FEATURES, 16, batch_first=True).eval(), torch.randn(STREAMS, FEATURES)),
        folder / "gru.rta",
    )
    return [folder / "net.rta", folder / "gru.rta"]


class Caller(threading.Thread):
    """Sends good requests at a rate (None: as fast as it can), and counts what became of each."""

    def __init__(self, number: int, folder: Path, port: int, rpc: int) -> None:
        super().__init__(daemon=True)
        self.number, self.port, self.rpc = number, port, rpc
        self.rate: float | None = None
        self.ends = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0
        self.net, self.gru = rt.load(folder / "net.rta"), rt.load(folder / "gru.rta")
        self.random = np.random.default_rng(number)

    def run(self) -> None:
        ask = self._grpc() if self.number % 4 == 3 else self._http()
        start, sent = time.monotonic(), 0
        rate = self.rate
        while not self.ends.is_set():
            if self.rate != rate:
                rate, start, sent = self.rate, time.monotonic(), 0
            if rate is not None and (left := start + sent / rate - time.monotonic()) > 0:
                time.sleep(left)
            sent += 1
            began = time.monotonic()
            try:
                self._one(ask, sent)
            except (ConnectionError, http.client.HTTPException, OSError) as error:
                self.counts["unanswered"] += 1
                self.wrong.append(f"{type(error).__name__}: {error}")
                if self.ends.wait(0.05):
                    return
                ask = self._http()
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _one(self, ask: Any, sent: int) -> None:
        if sent % 5:
            x = self.random.standard_normal((1, 48), np.float32)
            status, y = ask("net", "input", x, {})
            self._count(status, y, self.net(x))
            return
        # A whole sequence of four steps, with a number that no other caller uses.
        self.gru.reset(0)
        for t in range(4):
            x = self.random.standard_normal((1, FEATURES), np.float32)
            order = {"sequence_id": self.number * 10**9 + sent, "sequence_start": t == 0, "sequence_end": t == 3}
            status, y = ask("gru", "x_t", x, order)
            self._count(status, y, self.gru.step(x, streams=[0]))
            if status != "ok":
                return

    def _count(self, status: str, y: Any, expected: Any) -> None:
        self.counts[status] += 1
        if status == "ok" and not np.allclose(y, expected, rtol=0, atol=1e-5):
            self.wrong.append("another model's answer, or another state")

    def _http(self) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

        def ask(model: str, name: str, x: np.ndarray, order: dict[str, Any]) -> tuple[str, Any]:
            data = x.tobytes()
            entry = {"name": name, "datatype": "FP32", "shape": list(x.shape)}
            entry["parameters"] = {"binary_data_size": len(data)}
            head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True, **order}}).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            connection.request("POST", f"/v2/models/{model}/infer", head + data, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                return str(answer.status), None
            return "ok", np.frombuffer(body[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)

        return ask

    def _grpc(self) -> Any:
        import grpc

        from rtaccel.serve.v2.messages import MESSAGES

        channel = grpc.insecure_channel(f"127.0.0.1:{self.rpc}")
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )

        def ask(model: str, name: str, x: np.ndarray, order: dict[str, Any]) -> tuple[str, Any]:
            message = MESSAGES["ModelInferRequest"](model_name=model, raw_input_contents=[x.tobytes()])
            message.inputs.add(name=name, datatype="FP32", shape=x.shape)
            for key, value in order.items():
                setattr(message.parameters[key], "bool_param" if isinstance(value, bool) else "int64_param", value)
            try:
                return "ok", np.frombuffer(method(message, timeout=60).raw_output_contents[0], np.float32)
            except grpc.RpcError as error:
                return error.code().name, None

        return ask


def good_body() -> bytes:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 48], "data": [0.5] * 48}
    return json.dumps({"inputs": [tensor]}).encode()


def step_body(sequence: int) -> bytes:
    tensor = {"name": "x_t", "datatype": "FP32", "shape": [1, FEATURES], "data": [0.5] * FEATURES}
    return json.dumps({"inputs": [tensor], "parameters": {"sequence_id": sequence}}).encode()


class Faults(threading.Thread):
    """Bad requests and broken connections, some fifty a second. said: the status of each kind that is answered."""

    EXPECTED: ClassVar = {"no JSON": 400, "shape": 400, "unknown sequence": 400, "too late": 504, "no model": 404}

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.ends = port, threading.Event()
        self.said: Counter[tuple[str, int]] = Counter()
        self.broken = 0
        self.failed: list[str] = []

    def run(self) -> None:
        dice = random.Random(5)
        while not self.ends.wait(0.02):
            try:
                self._one(dice)
            except (OSError, http.client.HTTPException) as error:
                if not self.ends.is_set():
                    self.failed.append(f"{type(error).__name__}: {error}")

    def _one(self, dice: random.Random) -> None:
        kind = dice.choice([*self.EXPECTED, "breaks", "goes away"])
        body, path, headers = good_body(), "/v2/models/net/infer", {}
        if kind in ("breaks", "goes away"):
            self._break(body, dice.randrange(len(body)) if kind == "breaks" else len(body))
            return
        if kind == "no JSON":
            body = body[: dice.randrange(len(body))]
        elif kind == "shape":
            body = body.replace(b"[1, 48]", b"[2, 48]")
        elif kind == "unknown sequence":
            body, path = step_body(dice.randrange(1, 10**6)), "/v2/models/gru/infer"
        elif kind == "too late":
            headers = {"x-deadline-us": "1"}
        else:
            path = "/v2/models/other/infer"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        self.said[kind, answer.status] += 1

    def _break(self, body: bytes, sent: int) -> None:
        """A head that promises the whole body, so many bytes of it, and a reset."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            head = f"POST /v2/models/net/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body[:sent])
        self.broken += 1


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(seconds: float, share: float, callers: int) -> dict[str, Any]:
    """What a run came to; `faults` is a list of what does not hold, empty where all does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [sys.executable, "-c", SERVE, "serve", *map(str, files(folder))]
        words += ["--v2", "--port", "0", "--grpc-port", "0", "--json"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            threads = [Caller(i, folder, told["port"], told["grpc_port"]) for i in range(callers)]
            return _run(server, threads, Faults(told["port"]), seconds, share)
        finally:
            server.kill()
            server.wait(30)


def _run(
    server: subprocess.Popen[str], threads: list[Caller], faults: Faults, seconds: float, share: float
) -> dict[str, Any]:
    for thread in threads:
        thread.start()
    spell = min(5.0, seconds / 10)
    time.sleep(spell)  # the first requests are slow
    before = sum(t.counts.total() for t in threads)
    time.sleep(spell)
    capacity = (sum(t.counts.total() for t in threads) - before) / spell
    for thread in threads:  # a turn is 1.6 requests: four of five are one, the fifth has four
        thread.rate = share * capacity / len(threads) / 1.6
    faults.start()
    begun, memory = time.monotonic(), []
    before = sum(t.counts.total() for t in threads)
    while (passed := time.monotonic() - begun) < seconds:
        time.sleep(min(1.0, seconds / 20))
        memory.append((passed, resident(server.pid)))
    sent = sum(t.counts.total() for t in threads) - before
    faults.ends.set()
    faults.join(60)
    for thread in threads:
        thread.ends.set()
    for thread in threads:
        thread.join(60)
    server.terminate()
    tail = server.communicate(timeout=60)[0].splitlines()[-1]
    served = json.loads(tail)["served"]
    settled = [size for passed, size in memory if passed > seconds / 10]
    third = max(1, len(settled) // 3)
    growth = max(settled[-third:]) - max(settled[:third])
    counts = sum((t.counts for t in threads), Counter[str]())
    wrong = [text for t in threads for text in t.wrong]
    unexpected = {str(k): n for k, n in faults.said.items() if faults.EXPECTED[k[0]] != k[1]}
    found = {
        "requests": counts.total(), "served": served, "per_second": sent / seconds, "capacity_per_second": capacity,
        "counts": dict(counts), "bad": {f"{k[0]}: {k[1]}": n for k, n in sorted(faults.said.items())},
        "broken": faults.broken, "growth_bytes": growth, "resident_bytes": settled[-1], "exit_code": server.returncode,
        "slowest_ms": max(t.slowest for t in threads) * 1e3,
    }  # fmt: skip
    checks = {
        "every request answered, and right": set(counts) == {"ok"} and not wrong,
        "every bad request refused as it should be": not unexpected and not faults.failed,
        "the server counted at least what was answered": served >= counts["ok"],
        f"memory grows by less than {GROWTH_BYTES >> 20} MiB": growth < GROWTH_BYTES,
        "the server ended by itself": server.returncode == 0,
    }
    found["faults"] = [f"not so: {text}" for text, good in checks.items() if not good]
    found["faults"] += wrong[:5] + faults.failed[:5] + [f"{k}: {n}" for k, n in unexpected.items()]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--load", type=float, default=0.8, help="share of what the server takes (%(default)g)")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = soak(args.seconds, args.load, args.callers)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(
        f"{found['requests']:,} requests, {found['per_second']:,.0f} a second of {found['capacity_per_second']:,.0f}; "
        f"{found['counts']}; slowest {found['slowest_ms']:.0f} ms"
    )
    print(f"bad ones: {found['bad']}; {found['broken']:,} broken connections")
    print(f"memory {found['resident_bytes'] / 2**20:.1f} MiB, grown by {found['growth_bytes'] / 2**20:.2f} MiB")
    print("\n".join(found["faults"]) or "nothing lost, all answers right, memory flat")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
