"""REST: the routes of the protocol, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from rtaccel.core.errors import RtaccelError
from rtaccel.serve.v2 import rest_body
from rtaccel.serve.v2.gate import Gate
from rtaccel.serve.v2.metrics import Collector
from rtaccel.serve.v2.refusals import NoToken, NotServed, SlowBody, WrongMethod, status_of
from rtaccel.serve.v2.repository import VERSION
from rtaccel.serve.v2.request import HEADER_DEADLINE, sooner, timeout_of
from rtaccel.serve.v2.shared_memory import Regions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes, list[tuple[bytes, bytes]]]

JSON = (b"content-type", b"application/json")
_HEEDED = {
    name.encode(): name
    for name in ("authorization", "content-length", "content-encoding", HEADER_DEADLINE, rest_body.HEADER_LENGTH)
}
REFUSED = {
    "trace": "settings of traces: take times from /metrics",
    "logging": "settings of logs: set them where the server is started",
}
"""Parts of the protocol that are known and not served -> what to do instead."""


class App:
    """An ASGI application over the models of a gate."""

    def __init__(self, gate: Gate, version: str) -> None:
        self.gate, self.version = gate, version
        self._collector = Collector(gate.repository.counts, gate.numbers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotServed("serve", f"a {scope['type']} connection", "HTTP", "Ask by HTTP.")
        arrived = time.monotonic_ns()
        headers = {key: value.decode("latin-1") for name, value in scope["headers"] if (key := _HEEDED.get(name))}
        try:
            status, body, extra = await self._answer(scope, headers, receive, arrived)
        except RtaccelError as error:
            status, _ = status_of(error)
            if status == 500:
                self.gate.fault(error)
            body, extra = json.dumps({"error": str(error)}).encode(), [JSON]
            if status == 503:
                extra.append((b"retry-after", b"1"))
            if isinstance(error, NoToken):
                extra.append((b"www-authenticate", b"Bearer"))
        except Exception as error:
            status, body, extra = 500, json.dumps({"error": self.gate.fault(error)}).encode(), [JSON]
        if not self.gate.open:
            extra.append((b"connection", b"close"))
        extra.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": extra})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, headers: dict[str, str], receive: Receive, arrived: int) -> Answer:
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1").rstrip("/")
        parts = [unquote(part) for part in path.split("/")[1:]]
        get, post = scope["method"] in ("GET", "HEAD"), scope["method"] == "POST"
        gate = self.gate
        if parts == ["v2", "health", "live"] and get:
            return _empty(200)
        if parts == ["v2", "health", "ready"] and get:
            return _empty(200 if gate.ready and gate.repository.ready else 503)
        gate.check_token(headers.get("authorization"))
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            name, version, verb = _model_of(parts)
            if verb == "infer" and post:
                return await self._infer(name, version, headers, receive, arrived)
            if verb == "stats" and get and name == "stats" and len(parts) == 3:
                return _json({"model_stats": gate.repository.statistics()})
            if verb in ("", "ready", "stats", "config") and get:
                return self._about(name, version, verb)
            if verb == "trace/setting":
                raise not_served("trace")
            if verb in ("", "infer", "ready", "stats", "config"):
                raise WrongMethod("serve", f"{scope['method']} {path[:80]}", "GET, or POST for infer", "Use the other.")
        if parts == ["v2"] and get:
            return _json({"name": gate.settings.name, "version": self.version, "extensions": gate.extensions})
        if parts == ["metrics"] and get:
            return 200, self._collector.text(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        if parts[:2] == ["v2", "repository"] and post:
            given = await self._parameters(receive)
            return await self._repository(parts[2:], given)
        if parts[:1] == ["v2"] and parts[1:2] in (["systemsharedmemory"], ["cudasharedmemory"]):
            body = await self._parameters(receive) if post else None
            return _json(regions_rest(gate.regions, parts[1].removesuffix("sharedmemory"), parts[2:], body))
        if parts[:1] == ["v2"] and parts[1:2] and parts[1] in REFUSED:
            raise not_served(parts[1])
        raise NotServed("serve", f"{scope['method'][:10]} {path[:80]}", "a route of the protocol", "See /v2.")

    async def _infer(self, name: str, version: str, headers: dict[str, str], receive: Receive, arrived: int) -> Answer:
        gate = self.gate
        gate.enter()
        try:
            model = gate.repository.get(name, version)
            most = gate.settings.max_body_bytes
            length = headers.get("content-length", "0")
            if length.isascii() and length.isdigit() and int(length) > most:
                raise rest_body.too_large(most)
            body = await _body(receive, most, gate.settings.body_s)
            body = rest_body.decompressed(body, headers.get("content-encoding", ""), most)
            begun = time.monotonic_ns()
            request, wanted = rest_body.decode(model, body, headers.get(rest_body.HEADER_LENGTH), gate.regions)
            model.counts.decoded.add(time.monotonic_ns() - begun)
            if HEADER_DEADLINE in headers:
                given = request.parameters
                timeout = sooner(given.timeout_us, timeout_of(headers[HEADER_DEADLINE]))
                request = request._replace(parameters=given._replace(timeout_us=timeout))
            outs = await model.infer(request, arrived)
            begun = time.monotonic_ns()
            made, head = rest_body.encode(model, request, wanted, outs)
            model.counts.encoded.add(time.monotonic_ns() - begun)
        finally:
            gate.leave()
        if head is None:
            return 200, made, [JSON]
        binary = (b"content-type", b"application/octet-stream")
        return 200, made, [binary, (rest_body.HEADER_LENGTH.encode(), str(head).encode())]

    def _about(self, name: str, version: str, verb: str) -> Answer:
        model = self.gate.repository.get(name, version)
        if verb == "ready":
            return _empty(200)
        if verb == "stats":
            return _json({"model_stats": self.gate.repository.statistics(name)})
        if verb == "config":
            return _json(config_of(model))
        return _json(
            {
                "name": model.name,
                "versions": [VERSION],
                "platform": "rtaccel",
                "inputs": [port.metadata for port in model.inputs],
                "outputs": [port.metadata for port in model.outputs],
            }
        )

    async def _parameters(self, receive: Receive) -> dict[str, Any]:
        """The JSON object that is a body; an empty one where there is none."""
        body = await _body(receive, self.gate.settings.max_body_bytes, self.gate.settings.body_s)
        return rest_body.json_object(body) if body else {}

    async def _repository(self, parts: list[str], given: dict[str, Any]) -> Answer:
        repository = self.gate.repository
        if parts == ["index"]:
            ready = given.get("ready") is True
            return _json([entry for entry in repository.index() if not ready or entry["state"] == "READY"])
        if len(parts) == 3 and parts[0] == "models" and parts[2] in ("load", "unload"):
            if parts[2] == "load":
                repository.load(parts[1], rest_body.mapping(given, "parameters"))
            else:
                await repository.unload(parts[1])
            return _json({})
        raise NotServed(
            "serve", f"/v2/repository/{'/'.join(parts)[:80]}", "index, models/NAME/load", "See the protocol."
        )


def not_served(part: str) -> NotServed:
    return NotServed("serve", f"a request of {part}", "a part of the protocol that is served", REFUSED[part])


def regions_rest(regions: Regions, kind: str, parts: list[str], given: dict[str, Any] | None) -> Any:
    """The answer to v2/{kind}sharedmemory/...; given: the body of a POST. kind "cuda": no memory of a GPU is ever registered."""
    name = parts[1] if len(parts) == 3 and parts[0] == "region" else ""
    verb = parts[-1] if name or len(parts) == 1 else ""
    if verb == "status" and given is None:
        return regions.status(name) if kind == "system" else []
    if verb == "unregister" and given is not None:
        if kind == "system":
            regions.unregister(name)
        return {}
    if verb == "register" and given is not None and name:
        if kind != "system":
            raise no_cuda()
        regions.register(name, given.get("key"), given.get("offset", 0), given.get("byte_size"))
        return {}
    raise NotServed("serve", f"{kind}sharedmemory/{'/'.join(parts)[:80]}", "status, region/NAME/register, unregister",
                    "See the protocol.")  # fmt: skip


def no_cuda() -> NotServed:
    return NotServed("register", "memory of a GPU", "memory of the machine", "Register system shared memory.")


def config_of(model: Any) -> dict[str, Any]:
    """As much of a model's configuration as clients ask for."""
    edges = {
        key: [{"name": p.name, "data_type": f"TYPE_{p.datatype}", "dims": list(p.shape[1:] or p.shape)} for p in ports]
        for key, ports in (("input", model.inputs), ("output", model.outputs))
    }
    made = {"name": model.name, "platform": "rtaccel", "backend": "rtaccel", **edges}
    made["max_batch_size"] = model.max_batch if model.batches and model.sequences is None else 1
    if model.sequences is not None:
        idle = model.sequences.idle_ns // 1000
        made["sequence_batching"] = {"direct": {}, "max_sequence_idle_microseconds": idle}
    return made


async def _body(receive: Receive, most: int, seconds: float) -> bytes:
    """Raises TooLarge, SlowBody, and CancelledError where the client has gone."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        whole = message.get("body", b"")
        if len(whole) > most:
            raise rest_body.too_large(most)
        return bytes(whole)
    parts: list[bytes] = []
    size, end = 0, time.monotonic() + seconds
    while True:
        if message["type"] == "http.disconnect":
            raise SlowBody("infer", "a client that went away", "a whole body", "Send it again.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise rest_body.too_large(most)
        if not message.get("more_body"):
            return b"".join(parts)
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except asyncio.TimeoutError:
            raise SlowBody("infer", f"a body after {seconds:g} s", "a whole one by then", "Send it faster.") from None


def _model_of(parts: list[str]) -> tuple[str, str, str]:
    """(name, version, verb) of /v2/models/NAME[/versions/V][/VERB]; the verb of /v2/models/stats is stats."""
    rest = parts[3:]
    version = ""
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if parts[2:] == ["stats"]:
        return "stats", "", "stats"
    return parts[2], version, "/".join(rest)


def _empty(status: int) -> Answer:
    return status, b"", []


def _json(value: Any) -> Answer:
    return 200, json.dumps(value).encode(), [JSON]
