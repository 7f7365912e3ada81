"""A server: sockets, TLS, and an end that answers what is under way."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rtaccel import __version__
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.serve.v2.app import App
from rtaccel.serve.v2.gate import Gate
from rtaccel.serve.v2.repository import Repository
from rtaccel.serve.v2.settings import Settings

log = logging.getLogger("rtaccel.serve")


class Server:
    """The Open Inference Protocol over models that rt.save wrote: REST, and gRPC where settings.grpc_port is a number.

    paths: files; the name of a model is the stem of its file.
    settings: Settings. verify_key: as in rt.load. repository: what makes models of the files, of (paths, settings, verify_key).

    `run()` serves until SIGTERM or SIGINT (or `stop()` from any thread), then answers what is under way and returns. It loads no
    torch. Raises FormatError for a file or setting that does not fit, UnsupportedProblem for a port that is taken,
    BackendUnavailable without the packages of the extra `serve`.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        settings: Settings | None = None,
        verify_key: Any = None,
        repository: Callable[..., Repository] = Repository,
    ) -> None:
        self.settings = settings or Settings()
        self.repository = repository(paths, self.settings, verify_key)
        self.gate = Gate(self.repository, self.settings)
        self.app = App(self.gate, __version__)
        self.port: int | None = None
        self.grpc_port: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def run(self, on_ready: Callable[[Server], object] | None = None) -> None:
        """Serves in this thread. on_ready: called once it listens, with port and grpc_port set."""
        loop = _loop()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._serve(on_ready))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            self.repository.close()

    def stop(self) -> None:
        """Begins the end, from any thread; `run` returns when it is over."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop is closed: it is over
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, on_ready: Callable[[Server], object] | None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        uvicorn = _uvicorn()
        bound = self._bind()
        self.port = bound.getsockname()[1]
        http = _quiet(uvicorn, self._config(uvicorn))
        rpc = None
        if self.settings.grpc_port is not None:
            from rtaccel.serve.v2.rpc import RpcServer

            rpc = RpcServer(self.gate, __version__)
            self.grpc_port = await rpc.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread: stop() is there
                self._loop.add_signal_handler(number, self._stop.set)
        serving = asyncio.ensure_future(http.serve(sockets=[bound]))
        try:
            while not http.started and not serving.done():
                await asyncio.sleep(0.001)
            if on_ready is not None and not serving.done():
                on_ready(self)
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self._drain()
        finally:
            http.should_exit = True
            if rpc is not None:
                await rpc.stop()
            await serving
            bound.close()

    async def _drain(self) -> None:
        """Not ready; then nothing new; then what is under way is answered, for drain_s at most."""
        settings, gate = self.settings, self.gate
        gate.ready = False
        await asyncio.sleep(settings.drain_delay_s)
        gate.open = False
        end = asyncio.get_running_loop().time() + settings.drain_s
        while gate.under_way and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.002)
        if gate.under_way:
            log.warning("%d requests were not answered within %g s", gate.under_way, settings.drain_s)

    def _bind(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            made = socket.socket(family, kind, proto)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError as error:
            raise UnsupportedProblem("serve", f"{host}:{port} ({error})", "a free port", "Choose another.") from None
        return made

    def _config(self, uvicorn: Any) -> Any:
        s = self.settings
        tls: dict[str, Any] = {}
        if s.tls_cert is not None:
            tls = {"ssl_certfile": s.tls_cert, "ssl_keyfile": s.tls_key}
            if s.tls_client_ca is not None:
                tls |= {"ssl_ca_certs": s.tls_client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
        config = uvicorn.Config(
            self.app, lifespan="off", log_level="warning", access_log=False, server_header=False, date_header=False,
            timeout_keep_alive=75, timeout_graceful_shutdown=max(1, round(s.drain_s)), ws="none", **tls,
        )  # fmt: skip
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise FormatError("serve", f"TLS files ({error})", "PEM files that fit", "Look at them.") from None
        return config


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _quiet(uvicorn: Any, config: Any) -> Any:
    """uvicorn's server, which leaves signals to us."""

    class Quiet(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        def install_signal_handlers(self) -> None:
            """What older versions call."""

    return Quiet(config)


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as error:
        raise BackendUnavailable(
            "serve", f"no package uvicorn ({error})", "it", "pip install 'rtaccel[serve]'"
        ) from None
    return uvicorn
