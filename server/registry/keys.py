"""The public keys that signatures of images are checked by: ECDSA, RSA and Ed25519, in PEM."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from moorage.server.errors import FailedPrecondition

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def load(path: str) -> Callable[[bytes, bytes], bool]:
    """What tells whether a signature of a payload is good by the public key in a PEM file. Raises FailedPrecondition."""
    try:
        key = load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        why = (error.strerror or "").lower()
        raise FailedPrecondition(
            f"cannot read signature key {path}: {why}", reason="INVALID_CONFIG", path=path
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"signature key {path} is not a public key in PEM"
        raise FailedPrecondition(message, reason="INVALID_CONFIG", path=path) from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        message = f"signature key {path} is of a kind that does not sign here: want ECDSA, RSA or Ed25519"
        raise FailedPrecondition(message, reason="INVALID_CONFIG", path=path)
    return partial(_verifies, key)


def _verifies(key: Key, signature: bytes, payload: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, payload)
    except InvalidSignature:
        return False
    return True
