"""ed25519 keys as users have them. The arithmetic is the `cryptography` package's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rtaccel.core.errors import BackendUnavailable, FormatError

RAW_BYTES = 32


def _package(op: str) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise BackendUnavailable(
            op, f"no cryptography package ({error})", "it, for keys and signatures", "pip install 'rtaccel[sign]'"
        ) from error
    return serialization, ed25519


def private_key(op: str, key: Any) -> Any:
    """An ed25519 private key from 32 bytes, the path of a PEM file, or one of the cryptography package."""
    serialization, ed25519 = _package(op)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, (bytes, bytearray)) and len(key) == RAW_BYTES:
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(key))
    return _from_pem(op, key, ed25519.Ed25519PrivateKey, lambda pem: serialization.load_pem_private_key(pem, None))


def public_key(op: str, key: Any) -> Any:
    """An ed25519 public key, in the same forms."""
    serialization, ed25519 = _package(op)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, (bytes, bytearray)) and len(key) == RAW_BYTES:
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes(key))
    return _from_pem(op, key, ed25519.Ed25519PublicKey, serialization.load_pem_public_key)


def _from_pem(op: str, key: Any, kind: type, read: Any) -> Any:
    expected = "an ed25519 key: 32 bytes, a PEM file's path, or one of the cryptography package"
    if not isinstance(key, (str, os.PathLike)):
        raise FormatError(op, f"a key of type {type(key).__name__}", expected, "Pass one of these.")
    try:
        found = read(Path(key).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(op, f"{key}: {error}", expected, "Pass a key without a password.") from error
    if not isinstance(found, kind):
        raise FormatError(op, f"{key}, a {type(found).__name__}", expected, "Make an ed25519 key.")
    return found


def verified(op: str, key: Any, signature: bytes | None, message: bytes) -> None:
    """Raises FormatError where the signature is not the key's of this message."""
    owner = public_key(op, key)
    if signature is None:
        raise FormatError(op, "a file that is not signed", "one signed with this key", "Sign it: rt.save(..., sign=).")
    from cryptography.exceptions import InvalidSignature

    try:
        owner.verify(signature, message)
    except InvalidSignature as error:
        raise FormatError(
            op, "a signature of another key, or of another file", "one of this key", "Do not run this file."
        ) from error
