"""gRPC: the methods of `inference.GRPCInferenceService`, in the same event loop as REST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from rtaccel.core.errors import BackendUnavailable, FormatError, RtaccelError, UnsupportedProblem
from rtaccel.serve.v2 import rpc_codec
from rtaccel.serve.v2.app import config_of, no_cuda, not_served
from rtaccel.serve.v2.gate import Gate
from rtaccel.serve.v2.messages import MESSAGES, SERVICE
from rtaccel.serve.v2.refusals import status_of
from rtaccel.serve.v2.repository import VERSION
from rtaccel.serve.v2.request import HEADER_DEADLINE, sooner, timeout_of

try:
    import grpc
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise BackendUnavailable(
        "serve", f"no package grpcio ({error})", "it", "pip install 'rtaccel[serve]', or --no-grpc"
    ) from None

OPEN_METHODS = ("ServerLive", "ServerReady")
"""For probes: they need no token."""

Method = Callable[[Any, Any], Awaitable[Any]]

REFUSED: dict[str, Callable[[], RtaccelError]] = {
    "CudaSharedMemoryRegister": no_cuda,
    "TraceSetting": partial(not_served, "trace"),
    "LogSettings": partial(not_served, "logging"),
}
"""Methods that are known and not served; without them gRPC would answer in its own words."""


class RpcServer:
    """Listens where the settings say. Raises UnsupportedProblem for a port that is taken, FormatError for TLS files."""

    def __init__(self, gate: Gate, version: str) -> None:
        self.gate, self.version = gate, version
        self._server: Any = None

    async def start(self) -> int:
        settings = self.gate.settings
        most = settings.max_body_bytes + 65536  # and what a message has beside its tensors
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1),
                     ("grpc.so_reuseport", 0)],
        )  # fmt: skip
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if settings.tls_cert is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials())
        except RuntimeError as error:
            raise UnsupportedProblem("serve", f"{address} ({error})", "a free port", "Choose another.") from None
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(1.0)

    def _credentials(self) -> Any:
        s = self.gate.settings
        try:
            pair = [(Path(str(s.tls_key)).read_bytes(), Path(str(s.tls_cert)).read_bytes())]
            authority = None if s.tls_client_ca is None else Path(s.tls_client_ca).read_bytes()
        except OSError as error:
            raise FormatError("serve", f"TLS files ({error})", "PEM files", "Look at them.") from None
        return grpc.ssl_server_credentials(pair, authority, authority is not None)

    # -- methods

    def _handlers(self) -> dict[str, Any]:
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._config,
            "ModelInfer": self._infer,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._region_status,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "CudaSharedMemoryStatus": self._no_regions,
            "CudaSharedMemoryUnregister": self._nothing_to_unregister,
        }
        made = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, method),
                request_deserializer=_parser(f"{name}Request"),
                response_serializer=_bytes_of,
            )
            for name, method in methods.items()
        }
        for name, refusal in REFUSED.items():
            made[name] = grpc.unary_unary_rpc_method_handler(self._guarded(name, _raising(refusal)))
        made["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=_parser("ModelInferRequest"), response_serializer=_bytes_of
        )
        return made

    def _guarded(self, name: str, method: Method) -> Method:
        async def answer(message: Any, context: Any) -> Any:
            try:
                if name not in OPEN_METHODS:
                    self._check_token(context)
                return await method(_parsed(message), context)
            except RtaccelError as error:
                code, text = getattr(grpc.StatusCode, status_of(error)[1]), str(error)
                if code is grpc.StatusCode.INTERNAL:
                    self.gate.fault(error)
            except (grpc.RpcError, grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                code, text = grpc.StatusCode.INTERNAL, self.gate.fault(error)
            return await context.abort(code, text)

        return answer

    def _check_token(self, context: Any) -> None:
        if self.gate.settings.tokens:
            self.gate.check_token(_metadata(context, "authorization"))

    async def _live(self, message: Any, context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _ready(self, message: Any, context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self.gate.ready and self.gate.repository.ready)

    async def _model_ready(self, message: Any, context: Any) -> Any:
        return MESSAGES["ModelReadyResponse"](ready=self.gate.repository.has(message.name, message.version))

    async def _metadata(self, message: Any, context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](
            name=self.gate.settings.name, version=self.version, extensions=self.gate.extensions
        )

    async def _model_metadata(self, message: Any, context: Any) -> Any:
        model = self.gate.repository.get(message.name, message.version)
        return MESSAGES["ModelMetadataResponse"](
            name=model.name,
            versions=[VERSION],
            platform="rtaccel",
            inputs=[port.metadata for port in model.inputs],
            outputs=[port.metadata for port in model.outputs],
        )

    async def _config(self, message: Any, context: Any) -> Any:
        return rpc_codec.config(config_of(self.gate.repository.get(message.name, message.version)))

    async def _statistics(self, message: Any, context: Any) -> Any:
        return MESSAGES["ModelStatisticsResponse"](model_stats=self.gate.repository.statistics(message.name))

    async def _index(self, message: Any, context: Any) -> Any:
        listed = [entry for entry in self.gate.repository.index() if not message.ready or entry["state"] == "READY"]
        return MESSAGES["RepositoryIndexResponse"](models=listed)

    async def _load(self, message: Any, context: Any) -> Any:
        self.gate.repository.load(message.model_name, rpc_codec.plain(message.parameters))
        return MESSAGES["RepositoryModelLoadResponse"]()

    async def _unload(self, message: Any, context: Any) -> Any:
        await self.gate.repository.unload(message.model_name)
        return MESSAGES["RepositoryModelUnloadResponse"]()

    async def _region_status(self, message: Any, context: Any) -> Any:
        found = {region["name"]: region for region in self.gate.regions.status(message.name)}
        return MESSAGES["SystemSharedMemoryStatusResponse"](regions=found)

    async def _register(self, message: Any, context: Any) -> Any:
        self.gate.regions.register(message.name, message.key, message.offset, message.byte_size)
        return MESSAGES["SystemSharedMemoryRegisterResponse"]()

    async def _unregister(self, message: Any, context: Any) -> Any:
        self.gate.regions.unregister(message.name)
        return MESSAGES["SystemSharedMemoryUnregisterResponse"]()

    async def _no_regions(self, message: Any, context: Any) -> Any:
        return MESSAGES["CudaSharedMemoryStatusResponse"]()

    async def _nothing_to_unregister(self, message: Any, context: Any) -> Any:
        return MESSAGES["CudaSharedMemoryUnregisterResponse"]()

    async def _infer(self, message: Any, context: Any) -> Any:
        left = context.time_remaining()
        timeout = None if left is None else max(1, int(left * 1e6))
        header = _metadata(context, HEADER_DEADLINE)
        return await self._answered(message, timeout if header is None else sooner(timeout, timeout_of(header)))

    async def _answered(self, message: Any, timeout_us: int | None) -> Any:
        arrived = time.monotonic_ns()
        gate = self.gate
        gate.enter()
        try:
            model = gate.repository.get(message.model_name, message.model_version)
            begun = time.monotonic_ns()
            request = rpc_codec.decode(model, message, timeout_us, gate.regions)
            model.counts.decoded.add(time.monotonic_ns() - begun)
            outs = await model.infer(request, arrived)
            begun = time.monotonic_ns()
            answer = rpc_codec.encode(model, request, outs)
            model.counts.encoded.add(time.monotonic_ns() - begun)
            return answer
        finally:
            gate.leave()

    async def _stream(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Requests one after the other, each answered in its turn; an error is a message, and the stream goes on."""
        try:
            self._check_token(context)
        except RtaccelError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        Message = MESSAGES["ModelStreamInferResponse"]
        async for message in messages:
            try:
                answer = await self._answered(_parsed(message), None)
                final = message.parameters.get("triton_enable_empty_final_response")
                if final is not None and final.bool_param:
                    answer.parameters["triton_final_response"].bool_param = True
                yield Message(infer_response=answer)
            except RtaccelError as error:
                yield _refused(Message, message, str(error))
            except (grpc.RpcError, grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                yield _refused(Message, message, self.gate.fault(error))


def _raising(refusal: Callable[[], RtaccelError]) -> Method:
    async def refuse(message: Any, context: Any) -> Any:
        raise refusal()

    return refuse


def _refused(kind: Any, message: Any, text: str) -> Any:
    made = kind(error_message=text)
    if message is not None:
        made.infer_response.id, made.infer_response.model_name = message.id, message.model_name
    return made


def _parser(name: str) -> Callable[[bytes], Any]:
    """A parser that gives None for what is not such a message, so that the answer can say so."""
    kind = MESSAGES[name]

    def parse(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return parse


def _parsed(message: Any) -> Any:
    if message is None:
        raise FormatError("serve", "bytes that are no such message", "a message of the protocol", "See its .proto.")
    return message


def _bytes_of(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _metadata(context: Any, name: str) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None
