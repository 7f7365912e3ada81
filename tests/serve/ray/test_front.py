"""`rtaccel serve --ray`: the protocol in front of a cluster, with the answers, errors and sequences of one process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
ray = pytest.importorskip("ray", reason="needs the package ray (extra 'ray')")
pytest.importorskip("ray.serve", reason="needs Ray Serve (extra 'ray')")
triton = pytest.importorskip("tritonclient.http", reason="needs the package tritonclient")
pytest.importorskip("uvicorn", reason="needs uvicorn (extra 'serve')")

SERVE = "from rtaccel.cli.main import main; raise SystemExit(main())"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    rt.save(rt.compile(torch.nn.Linear(6, 2).eval(), torch.randn(1, 6)), folder / "net.rta")
    rt.save(rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(8, 3)), folder / "gru.rta")
    return folder / "net.rta", folder / "gru.rta"


@pytest.fixture(scope="module")
def port(files: tuple[Path, Path]) -> Iterator[int]:
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
             runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})  # fmt: skip
    words = ["serve", *map(str, files), "--ray", "--replicas", "2:2", "--port", "0", "--no-grpc", "--json"]
    words += ["--ray-address", ray.get_runtime_context().gcs_address]
    process = subprocess.Popen([sys.executable, "-c", SERVE, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = next(json.loads(line) for line in process.stdout if line.startswith("{"))
        assert told["serving"] == ["net", "gru"]
        yield told["port"]
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert json.loads(said.splitlines()[-1])["served"] > 0
    finally:
        process.kill()
        ray.shutdown()


def given(name: str, x: np.ndarray) -> list[Any]:
    made = triton.InferInput(name, list(x.shape), "FP32")
    made.set_data_from_numpy(x)
    return [made]


def test_answers_are_those_of_the_file(port: int, files: tuple[Path, Path]) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=60)
    assert client.is_server_ready()
    assert client.get_model_metadata("gru")["inputs"][0]["name"] == "x_t"
    net = rt.load(files[0])
    for rows in (1, 3):
        x = np.random.default_rng(rows).standard_normal((rows, 6), np.float32)
        np.testing.assert_allclose(client.infer("net", given("input", x)).as_numpy("output"), net(x), atol=1e-6)


def test_sequences_on_two_replicas(port: int, files: tuple[Path, Path]) -> None:
    """More sequences than one replica has places, side by side; a number and a text are two of them."""
    names: list[Any] = [*range(1, 11), *map(str, range(1, 3))]
    wrong: list[Any] = []

    def caller(mine: list[Any]) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=60)
        alone = {name: rt.load(files[1]) for name in mine}
        rng = np.random.default_rng(len(mine))
        try:
            for t in range(6):
                for name in mine:
                    x = rng.standard_normal((1, 3), np.float32)
                    order = {"sequence_id": name, "sequence_start": t == 0, "sequence_end": t == 5}
                    y = client.infer("gru", given("x_t", x), **order).as_numpy("output")
                    np.testing.assert_allclose(y, alone[name].step(x, streams=[0]), rtol=0, atol=1e-5)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=caller, args=(names[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_errors_come_through(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(model: str, name: str, x: list[list[float]], parameters: Any = None, **headers: str) -> tuple[int, str]:
        tensor = {"name": name, "datatype": "FP32", "shape": [len(x), len(x[0])], "data": x}
        body = json.dumps({"inputs": [tensor], "parameters": parameters or {}})
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    step = [[1.0, 2.0, 3.0]]
    assert ask("net", "input", [[1.0] * 5])[0] == 400
    assert ask("other", "input", [[1.0] * 6])[0] == 404
    status, said = ask("gru", "x_t", step, {"sequence_id": 77})
    assert status == 400
    assert "has not begun" in said
    assert ask("gru", "x_t", step)[0] == 400
    assert ask("net", "input", [[1.0] * 6], **{"x-deadline-us": "1"})[0] == 504
    assert ask("net", "input", [[1.0] * 6], **{"x-deadline-us": "30000000"})[0] == 200
    connection.request("GET", "/metrics")
    assert b"rtaccel" in connection.getresponse().read()
