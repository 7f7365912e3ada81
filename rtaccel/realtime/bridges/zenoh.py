"""A slot filled from a zenoh key (package `eclipse-zenoh`, extra `realtime`)."""

from __future__ import annotations

from typing import Any

from rtaccel.realtime.bridges.bridge import Bridge, Decode, library
from rtaccel.realtime.latest import Latest


class ZenohBridge(Bridge):
    """Subscribes to a key, and puts each message into the slot, on zenoh's own thread. As Bridge otherwise.

    key: the key expression. session: a zenoh session; None: one of its own, closed at the end of `with`.

    Raises BackendUnavailable without the package.
    """

    def __init__(self, slot: Latest, key: str, decode: Decode | None = None, session: Any = None) -> None:
        super().__init__(slot, decode)
        zenoh = library("zenoh", "eclipse-zenoh", "pip install 'rtaccel[realtime]'")
        self._own = session is None
        self.session = zenoh.open(zenoh.Config()) if session is None else session
        self._subscriber = self.session.declare_subscriber(key, lambda sample: self.take(sample.payload.to_bytes()))

    def __enter__(self) -> ZenohBridge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._subscriber.undeclare()
        if self._own:
            self.session.close()
