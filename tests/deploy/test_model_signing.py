"""A detached bundle of OpenSSF's model-signing (optional package): it signs a model's file as any other, and finds a change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rtaccel as rt

signing = pytest.importorskip("model_signing.signing", reason="model-signing is not installed", exc_type=ImportError)
verifying = pytest.importorskip("model_signing.verifying", exc_type=ImportError)


def test_a_bundle_beside_the_file(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "key.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    folder = tmp_path / "model"
    folder.mkdir()
    file = rt.save(rt.compile(torch.nn.Linear(8, 4).eval(), torch.randn(1, 8)), folder / "policy.rta")
    bundle = tmp_path / "policy.sig"
    signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem").sign(folder, bundle)
    verify = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub").verify
    verify(folder, bundle)
    rt.load(file)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    with pytest.raises(ValueError, match=r"mismatch|differ|[Ss]ignature"):
        verify(folder, bundle)
    with pytest.raises(rt.FormatError):
        rt.load(file)
