"""Frames over gRPC: streams that end and begin again, more clients than streams, several in one process, certificates."""

from __future__ import annotations

import datetime
import ipaddress
import time

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.serve.remote import Endpoint, Remote, TimedOut
from rtaccel.serve.remote.grpc import GrpcClient, GrpcServer

pytest.importorskip("grpc", reason="the package grpcio is not installed")

KINDS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "calls"])


def answered(remote: Remote, x: torch.Tensor, within_s: float = 60) -> torch.Tensor:
    """With requests that are sent again where they are lost."""
    end = time.monotonic() + within_s
    while True:
        try:
            return remote(x, timeout_s=0.5)  # type: ignore[no-any-return]
        except TimedOut:
            if time.monotonic() > end:
                raise


@KINDS
def test_an_endpoint_that_ends_and_starts_anew(cut: rt.Cut, stream: bool) -> None:
    x = torch.randn(2, 40)
    with GrpcServer(Endpoint.of(cut)) as server:
        address = server.address
        remote = Remote.of(cut, GrpcClient(address, stream=stream))
        assert torch.equal(answered(remote, x), cut._whole(x))
    with pytest.raises(TimedOut):
        remote(x, timeout_s=0.3)
    with GrpcServer(Endpoint.of(cut), address), remote:
        assert torch.equal(answered(remote, x), cut._whole(x))


@KINDS
def test_several_clients_of_one_process_are_told_apart(cut: rt.Cut, stream: bool) -> None:
    """Each is a sender with numbers of its own: on one connection the endpoint took the older for a replay of the newer."""
    endpoint = Endpoint.of(cut)
    with GrpcServer(endpoint) as server:
        remotes = [Remote.of(cut, GrpcClient(server.address, stream=stream)) for _ in range(3)]
        for _ in range(5):
            for remote in remotes:
                x = torch.randn(2, 40)
                assert torch.equal(remote(x, timeout_s=60), cut._whole(x))
        for remote in remotes:
            remote.close()
    assert endpoint.stats().answered == 15


def test_more_clients_than_streams(cut: rt.Cut) -> None:
    """A stream too many loses its frames; calls go on, and so does the client once a stream is free."""
    x = torch.randn(2, 40)
    with GrpcServer(Endpoint.of(cut), streams=1) as server:
        first, second, third = (
            Remote.of(cut, GrpcClient(server.address, stream=stream)) for stream in (True, True, False)
        )
        assert torch.equal(first(x, timeout_s=60), cut._whole(x))
        with pytest.raises(TimedOut):
            second(x, timeout_s=0.5)
        assert torch.equal(third(x, timeout_s=60), cut._whole(x))
        assert torch.equal(first(x, timeout_s=60), cut._whole(x))
        first.close()
        assert torch.equal(answered(second, x), cut._whole(x))
        second.close()
        third.close()


@KINDS
def test_a_frame_that_is_far_too_large_is_lost(cut: rt.Cut, stream: bool) -> None:
    """It ends its own stream, not the endpoint, and the client's next frames begin another."""
    endpoint, x = Endpoint.of(cut), torch.randn(2, 40)
    with GrpcServer(endpoint) as server:
        client = GrpcClient(server.address, stream=stream)
        with Remote.of(cut, client) as remote, Remote.of(cut, GrpcClient(server.address)) as other:
            assert torch.equal(remote(x, timeout_s=60), cut._whole(x))
            client.send(memoryview(bytes(100_000)))
            assert torch.equal(other(x, timeout_s=60), cut._whole(x))
            assert torch.equal(answered(remote, x), cut._whole(x))
    assert endpoint.stats().refused == {}


def test_streams_below_one(cut: rt.Cut) -> None:
    for bad in (0, -1, True, 1.5):
        with pytest.raises(FormatError, match="streams="):
            GrpcServer(Endpoint.of(cut), streams=bad)  # type: ignore[arg-type]


def certificates() -> dict[str, tuple[bytes, bytes]]:
    """Name -> (key, certificate) as PEM, of an authority, a server and a client that it signed."""
    pytest.importorskip("cryptography", reason="the package cryptography is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    found, authority = {}, None
    now = datetime.datetime.now(datetime.timezone.utc)
    for name in ("authority", "server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, issuer = (key, subject) if authority is None else authority
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(authority is None, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )  # fmt: skip
        signed = builder.sign(signer, hashes.SHA256())
        authority = authority or (key, subject)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        found[name] = private, signed.public_bytes(pem)
    return found


def test_grpc_with_certificates_of_both_sides(cut: rt.Cut) -> None:
    import grpc

    pem = certificates()
    root = pem["authority"][1]
    endpoint, x = Endpoint.of(cut), torch.randn(2, 40)
    with GrpcServer(endpoint, credentials=grpc.ssl_server_credentials([pem["server"]], root, True)) as server:
        mine = grpc.ssl_channel_credentials(root, *pem["client"])
        with Remote.of(cut, GrpcClient(server.address, mine)) as remote:
            assert torch.equal(remote(x, timeout_s=60), cut._whole(x))
        for stranger in (grpc.ssl_channel_credentials(root), None):
            with Remote.of(cut, GrpcClient(server.address, stranger)) as remote, pytest.raises(TimedOut):
                remote(x, timeout_s=0.5)
    assert endpoint.stats().answered == 1
