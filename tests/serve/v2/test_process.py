"""A server as a process: it ends when asked and answers first, it asks for tokens and certificates, and it does not grow."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.serve.v2.settings import Settings
from tests.serve.v2.protocol_server import Local, Running, running, tensor, within

uvicorn = pytest.importorskip("uvicorn", reason="needs the package uvicorn (extra 'serve')")
pytest.importorskip("grpc", reason="needs the package grpcio (extra 'serve')")

BODY = json.dumps({"inputs": [tensor("input", [[0.5] * 6])]})
PATH = "/v2/models/net/infer"


def ask(connection: http.client.HTTPConnection, path: str = PATH, body: str | None = BODY, **headers: str) -> Any:
    connection.request("POST" if body is not None else "GET", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_sigterm_answers_what_is_under_way(tmp_path: Path) -> None:
    """Clients send without a pause while the server ends: each request is answered whole, or refused; none is cut off."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 64)).eval()
    rt.save(rt.compile(net, torch.randn(1, 64)), tmp_path / "large.rta")
    body = json.dumps({"inputs": [tensor("input", [[0.5] * 64] * 40)]})
    ended: list[str] = []
    answered = threading.Event()

    def client(server: Running) -> None:
        connection = http.client.HTTPConnection(server.http, timeout=60)
        while True:
            try:
                connection.connect() if connection.sock is None else None
            except OSError:
                return ended.append("refused")
            try:
                status, answer = ask(connection, "/v2/models/large/infer", body)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                return ended.append("closed between two requests")
            if status == 503:
                return ended.append("told")
            assert len(json.loads(answer)["outputs"][0]["data"]) == 40 * 64
            answered.set()

    with running(tmp_path / "large.rta") as server:
        threads = [threading.Thread(target=client, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert answered.wait(60)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert server.process.wait(60) == 0
        assert server.process.stdout is not None
        assert json.loads(server.process.stdout.read())["served"] > 0
    assert len(ended) == 4


def test_it_is_not_ready_before_it_refuses(files: tuple[Path, ...]) -> None:
    with running(files[0], "--drain-delay", "60") as server:
        connection = http.client.HTTPConnection(server.http, timeout=60)
        assert ask(connection, "/v2/health/ready", None)[0] == 200
        server.process.send_signal(signal.SIGINT)
        while ask(connection, "/v2/health/ready", None)[0] == 200:
            time.sleep(0.01)
        assert ask(connection, "/v2/health/live", None)[0] == 200
        assert ask(connection)[0] == 200
        server.process.kill()


def test_a_draining_server_refuses(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        local.gate.open = False
        status, headers, answer = await local.call("POST", PATH, BODY.encode())
        assert (status, headers["connection"]) == (503, "close")
        assert "while the server ends" in json.loads(answer)["error"]

    within(files, test)


def test_requests_under_way_are_limited(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        local.gate.under_way = 3
        status, headers, answer = await local.call("POST", PATH, BODY.encode())
        assert (status, headers["retry-after"]) == (503, "1")
        assert "3 requests under way" in json.loads(answer)["error"]
        local.gate.under_way = 2
        assert (await local.call("POST", PATH, BODY.encode()))[0] == 200
        assert local.gate.under_way == 2

    within(files, test, max_requests=3)


def test_tokens(files: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("first-token\nsecond-token\n")
    with running(files[0], "--token-file", tmp_path / "tokens") as server:
        connection = http.client.HTTPConnection(server.http, timeout=60)
        assert ask(connection, "/v2/health/ready", None)[0] == 200
        for header in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic first-token"},
                       {"Authorization": "Bearer first-token second-token"}, {"Authorization": "Bearer"}):  # fmt: skip
            for path, body in ((PATH, BODY), ("/metrics", None), ("/v2/models/net", None)):
                status, answer = ask(connection, path, body, **header)
                assert status == 401
                assert "Bearer" in json.loads(answer)["error"]
        for token in ("first-token", "second-token"):
            assert ask(connection, Authorization=f"Bearer {token}")[0] == 200
        grpc_client = pytest.importorskip("tritonclient.grpc")
        client = grpc_client.InferenceServerClient(server.grpc)
        assert client.is_server_ready()
        with pytest.raises(Exception, match="UNAUTHENTICATED"):
            client.get_model_metadata("net")
        assert client.get_model_metadata("net", headers={"authorization": "Bearer first-token"}).name == "net"


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by itself."""
    pytest.importorskip("cryptography", reason="needs the package cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, False)
        .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(files: tuple[Path, ...], tmp_path: Path, mutual: bool) -> None:
    cert, key = certificate(tmp_path)
    more = ("--tls-client-ca", cert) if mutual else ()
    with running(files[0], "--tls-cert", cert, "--tls-key", key, *more) as server:
        context = ssl.create_default_context(cafile=str(cert))
        if mutual:
            with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
                ask(http.client.HTTPSConnection(server.http, context=context, timeout=60))
            context.load_cert_chain(cert, key)
        assert ask(http.client.HTTPSConnection(server.http, context=context, timeout=60))[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(http.client.HTTPConnection(server.http, timeout=60))
        import grpc

        own = (key.read_bytes(), cert.read_bytes()) if mutual else (None, None)
        credentials = grpc.ssl_channel_credentials(cert.read_bytes(), *own)
        with grpc.secure_channel(server.grpc, credentials) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=60) == b"\x08\x01"


def test_bytes_that_are_no_message(files: tuple[Path, ...]) -> None:
    import grpc

    with running(files[0]) as server, grpc.insecure_channel(server.grpc) as channel:
        for method in ("ModelInfer", "ModelMetadata"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as raised:
                call(b"\xff\xff\xff", timeout=60)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/inference.GRPCInferenceService/ModelForecast")(b"", timeout=60)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_raw_bytes_on_the_port(files: tuple[Path, ...]) -> None:
    rng = np.random.default_rng()
    with running(files[0]) as server:
        for junk in (b"\x00" * 100, rng.bytes(1000), b"GET / HTTP/9.9\r\n\r\n", b"POST " + b"a" * 100_000):
            with socket.create_connection(("127.0.0.1", server.port), 60) as made:
                made.sendall(junk)
        assert ask(http.client.HTTPConnection(server.http, timeout=60))[0] == 200


def test_a_deadline_in_a_header(files: tuple[Path, ...]) -> None:
    async def test(local: Local) -> None:
        model = local.gate.repository.get("net")
        assert (await local.call("POST", PATH, BODY.encode(), {"X-Deadline-Us": "50000000"}))[0] == 200
        model._least_ns = 10**9  # so long a call takes at least
        for headers, changes in (({"X-Deadline-Us": "1000"}, {}), ({}, {"parameters": {"timeout": 1000}})):
            body = json.dumps({**json.loads(BODY), **changes}).encode()
            status, _, answer = await local.call("POST", PATH, body, headers)
            assert status == 504
            assert "an answer within 1,000 us" in json.loads(answer)["error"]
        for wrong in ("soon", "\u00b2", "-5"):
            assert (await local.call("POST", PATH, BODY.encode(), {"X-Deadline-Us": wrong}))[0] == 400
        assert model.counts.too_late == 2

    within(files, test)


def test_the_deadline_of_grpc(files: tuple[Path, ...]) -> None:
    grpc_client = pytest.importorskip("tritonclient.grpc")
    with running(files[0]) as server:
        client = grpc_client.InferenceServerClient(server.grpc)
        x = grpc_client.InferInput("input", [1, 6], "FP32")
        x.set_data_from_numpy(np.ones((1, 6), np.float32))
        client.infer("net", [x], client_timeout=60)
        with pytest.raises(Exception, match=r"DEADLINE_EXCEEDED|Deadline"):
            client.infer("net", [x], timeout=1)  # a microsecond


def test_models_are_loaded_anew(files: tuple[Path, ...], tmp_path: Path) -> None:
    """Other weights of the same model: sequences go on with them. Unloading and loading: they are over."""

    def write(seed: int) -> None:
        torch.manual_seed(seed)
        rt.save(rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(4, 3)), tmp_path / "gru.rta")

    def step(start: bool = False) -> str:
        given = {
            "inputs": [tensor("x_t", [[1.0, 2.0, 3.0]])],
            "parameters": {"sequence_id": 1, "sequence_start": start},
        }
        return json.dumps(given)

    write(0)

    async def test(local: Local) -> None:
        async def send(path: str, text: str = "") -> tuple[int, Any]:
            status, _, answer = await local.call("POST", path, text.encode())
            return status, json.loads(answer or b"{}")

        alone = rt.load(tmp_path / "gru.rta")
        x = np.array([[1, 2, 3]], np.float32)
        await send("/v2/models/gru/infer", step(True))
        alone.step(x, streams=[0])
        write(1)
        assert (await send("/v2/repository/models/gru/load"))[0] == 200
        alone.swap(tmp_path / "gru.rta")
        _, answer = await send("/v2/models/gru/infer", step())
        assert answer["outputs"][0]["data"] == alone.step(x, streams=[0]).reshape(-1).tolist()
        (tmp_path / "gru.rta").write_bytes(files[0].read_bytes())  # another model
        status, answer = await send("/v2/repository/models/gru/load")
        assert status == 400
        assert "same model" in answer["error"]
        assert (await send("/v2/models/gru/infer", step()))[0] == 200
        assert (await send("/v2/repository/models/gru/unload"))[0] == 200
        assert (await local.call("GET", "/v2/health/ready"))[0] == 503
        status, index = await send("/v2/repository/index")
        assert {m["name"]: (m["state"], m["reason"]) for m in index}["gru"] == ("UNAVAILABLE", "unloaded")
        assert (await send("/v2/models/gru/infer", step()))[0] == 404
        write(2)
        assert (await send("/v2/repository/models/gru/load"))[0] == 200
        assert (await send("/v2/models/gru/infer", step()))[0] == 400
        assert (await send("/v2/models/gru/infer", step(True)))[0] == 200
        assert (await send("/v2/repository/models/other/load"))[0] == 404

    within([files[0], tmp_path / "gru.rta"], test, repository=True)


def test_memory_is_flat(files: tuple[Path, ...]) -> None:
    """Of the process, over good and bad requests and sequences; the first ones fill caches. RTACCEL_SOAK: so many."""
    rounds = int(os.environ.get("RTACCEL_SOAK", "400"))
    with running(*files) as server:
        connection = http.client.HTTPConnection(server.http, timeout=60)

        def some(count: int) -> int:
            for i in range(count):
                assert ask(connection)[0] == 200
                assert ask(connection, body="{")[0] == 400
                given = {"inputs": [tensor("x_t", [[1.0, 2.0, 3.0]])], "parameters": {
                    "sequence_id": i + 1, "sequence_start": True, "sequence_end": True}}  # fmt: skip
                assert ask(connection, "/v2/models/gru/infer", json.dumps(given))[0] == 200
            pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")

        some(200)
        before = some(rounds)
        assert some(rounds) - before < 1 << 20


def test_settings_that_do_not_fit(files: tuple[Path, ...], tmp_path: Path) -> None:
    from rtaccel.serve.v2.server import Server

    for wrong in ({"port": -1}, {"max_batch": 0}, {"drain_s": -1}, {"tls_cert": "a"}, {"tls_client_ca": "a"},
                  {"tokens": ("",)}, {"threads": 0}, {"port": True}):  # fmt: skip
        with pytest.raises(FormatError):
            Settings(**wrong)
    (tmp_path / "net.rta").write_bytes(files[0].read_bytes())
    with pytest.raises(FormatError, match="two files"):
        Server([files[0], tmp_path / "net.rta"])
    (tmp_path / "bad.rta").write_bytes(b"no model")
    with pytest.raises(FormatError):
        Server([tmp_path / "bad.rta"])
    with pytest.raises(FormatError):
        Server([])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnsupportedProblem, match="a free port"):
            Server([files[0]], Settings(port=taken.getsockname()[1], grpc_port=None)).run()
        with pytest.raises(UnsupportedProblem, match="a free port"):
            Server([files[0]], Settings(port=0, grpc_port=taken.getsockname()[1])).run()
    with pytest.raises(FormatError, match="TLS"):
        Server([files[0]], Settings(port=0, tls_cert="/none", tls_key="/none")).run()


def test_without_the_packages(files: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from rtaccel.serve.v2.server import Server

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "uvicorn", None)
        with pytest.raises(BackendUnavailable, match=r"rtaccel\[serve\]"):
            Server([files[0]], Settings(port=0)).run()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(BackendUnavailable, match=r"rtaccel\[serve\]"):
            Server([files[0]])


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rtaccel.cli.main", "serve", str(tmp_path / "none.rta"), "--v2"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such file" in done.stderr
