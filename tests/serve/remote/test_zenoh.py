"""Frames over zenoh: more clients than an endpoint remembers keys of, and a configuration of the caller's."""

from __future__ import annotations

import os
from uuid import uuid4

import pytest
import torch

import rtaccel as rt
from rtaccel.serve.remote import Endpoint, Remote
from rtaccel.serve.remote import zenoh as module
from rtaccel.serve.remote.zenoh import ZenohClient, ZenohServer

zenoh = pytest.importorskip("zenoh", reason="the package eclipse-zenoh is not installed")


def test_more_clients_than_keys_are_remembered(cut: rt.Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PUBLISHERS", 2)
    endpoint, key, session = Endpoint.of(cut), f"rtaccel/{uuid4().hex}", zenoh.open(zenoh.Config())
    with ZenohServer(endpoint, key, session) as server:
        remotes = [Remote.of(cut, ZenohClient(key, session)) for _ in range(4)]
        for _ in range(3):
            for remote in remotes:
                x = torch.randn(2, 40)
                assert torch.equal(remote(x, timeout_s=60), cut._whole(x))
                assert len(server._publishers) <= 2
        for remote in remotes:
            remote.close()
    assert endpoint.stats().answered == 12
    assert not server._publishers
    session.close()


def test_a_configuration_is_taken_as_it_is(cut: rt.Cut) -> None:
    key = f"rtaccel/{uuid4().hex}"
    x = torch.randn(2, 40)
    with ZenohServer(Endpoint.of(cut), key, config=zenoh.Config()):  # the usual transport beside the low-latency one
        client = ZenohClient(key)
        with Remote.of(cut, client) as remote:
            for _ in range(50):
                try:
                    y = remote(x, timeout_s=1)
                    break
                except rt.RtaccelError:  # it needs a moment to find its peer
                    continue
            assert torch.equal(y, cut._whole(x))


def test_zenoh_gets_few_threads_where_the_user_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variable is set while a session opens, and what was there before is there after it."""
    seen: list[str | None] = []
    opened = zenoh.open

    def watched(config: object) -> object:
        seen.append(os.environ.get("ZENOH_RUNTIME"))
        return opened(config)

    monkeypatch.setattr(zenoh, "open", watched)
    monkeypatch.delenv("ZENOH_RUNTIME", raising=False)
    ZenohClient(f"rtaccel/{uuid4().hex}").close()
    assert "ZENOH_RUNTIME" not in os.environ
    monkeypatch.setenv("ZENOH_RUNTIME", "(rx:(worker_threads:3))")
    ZenohClient(f"rtaccel/{uuid4().hex}").close()
    assert os.environ["ZENOH_RUNTIME"] == "(rx:(worker_threads:3))"
    assert seen == [module.THREADS, "(rx:(worker_threads:3))"]
