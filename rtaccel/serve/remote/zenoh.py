"""Frames over zenoh (package `eclipse-zenoh`, extra `edge`): for edge and fog, through routers, with TLS as its configuration
says."""

from __future__ import annotations

import contextlib
import os
import queue
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from rtaccel.realtime.bridges.bridge import library
from rtaccel.serve.remote.endpoint import Endpoint

MAX_PUBLISHERS = 256
"""Clients whose keys an endpoint has declared."""
HINT = "pip install 'rtaccel[edge]'"
THREADS = "(rx:(worker_threads:1),tx:(handover:rx),app:(worker_threads:1),net:(handover:rx),acc:(handover:rx))"
"""Of zenoh's runtime: what is received is answered by the thread that received it. A message changes threads less often then,
which takes a third less over loopback."""


def _zenoh() -> Any:
    return library("zenoh", "eclipse-zenoh", HINT)


@contextlib.contextmanager
def _few_threads() -> Iterator[None]:
    """While a session is opened: zenoh reads its variable once, with the first session of a process. What the user has set
    stays."""
    if "ZENOH_RUNTIME" in os.environ:
        yield
        return
    os.environ["ZENOH_RUNTIME"] = THREADS
    try:
        yield
    finally:
        del os.environ["ZENOH_RUNTIME"]


def open_session(config: Any = None) -> Any:
    """With the low-latency transport, which has no priorities, where the other end has it too: a fifth less over loopback."""
    zenoh = _zenoh()
    if config is None:
        config = zenoh.Config()
        config.insert_json5("transport/unicast/qos/enabled", "false")
        config.insert_json5("transport/unicast/lowlatency", "true")
    with _few_threads():
        return zenoh.open(config)


def at_once(call: Any) -> Any:
    """A callback on the thread that receives. By default zenoh has a thread of Python for each, which costs a change of threads,
    and which the interpreter waits for at its end where nobody closed the client."""
    from zenoh.handlers import Callback

    return Callback(call, indirect=False)


class ZenohClient:
    """Asks the endpoint at a key.

    key: such as "plant/7/detector". session: a zenoh session; None: one of its own by `config`, closed at the end. config: a
        `zenoh.Config`, with certificates for TLS; None: the default with the low-latency transport, which has no priorities.

    Raises BackendUnavailable without the package.
    """

    most_bytes = None

    def __init__(self, key: str, session: Any = None, config: Any = None) -> None:
        self._own = session is None
        self._session = open_session(config) if session is None else session
        self.peer = uuid4().hex
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._subscriber = self._session.declare_subscriber(f"{key}/answer/{self.peer}", at_once(self._came))
        self._publisher = self._session.declare_publisher(f"{key}/request/{self.peer}")

    def _came(self, sample: Any) -> None:
        self._answers.put(sample.payload.to_bytes())

    def send(self, frame: memoryview) -> None:
        self._publisher.put(bytes(frame))

    def receive(self, timeout_s: float) -> Any:
        try:
            return self._answers.get(timeout=timeout_s) if timeout_s > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        self._subscriber.undeclare()
        self._publisher.undeclare()
        if self._own:
            self._session.close()


class ZenohServer:
    """Answers requests below a key with an endpoint, on zenoh's own threads, from `with` or `start` to `stop`. As ZenohClient
    otherwise."""

    def __init__(self, endpoint: Endpoint, key: str, session: Any = None, config: Any = None) -> None:
        self.endpoint, self._key, self._own = endpoint, key, session is None
        self._session = open_session(config) if session is None else session
        self._subscriber: Any = None
        self._publishers: OrderedDict[str, Any] = OrderedDict()

    def start(self) -> ZenohServer:
        """Starts to answer."""
        self._subscriber = self._session.declare_subscriber(f"{self._key}/request/*", at_once(self._asked))
        return self

    def _asked(self, sample: Any) -> None:
        peer = str(sample.key_expr).rsplit("/", 1)[-1]
        answer = self.endpoint.answer(sample.payload.to_bytes(), peer)
        if answer is not None:
            self._publisher(peer).put(answer)

    def _publisher(self, peer: str) -> Any:
        """Declared once: a key that is not costs its text in every message. Those that were used last are kept."""
        found = self._publishers.get(peer)
        if found is None:
            found = self._publishers[peer] = self._session.declare_publisher(f"{self._key}/answer/{peer}")
            if len(self._publishers) > MAX_PUBLISHERS:
                self._publishers.popitem(last=False)[1].undeclare()
        else:
            self._publishers.move_to_end(peer)
        return found

    def stop(self) -> None:
        """Answers no more."""
        if self._subscriber is not None:
            self._subscriber.undeclare()
        while self._publishers:
            self._publishers.popitem()[1].undeclare()
        if self._own:
            self._session.close()

    def __enter__(self) -> ZenohServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
