"""Keys and signatures of ed25519 (RFC 8032), over `cryptography`; the only file that imports it."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def new_pair() -> tuple[bytes, bytes]:
    """A new private key and its public one, in PEM: PKCS #8 without a password, and SubjectPublicKeyInfo."""
    key, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)


def signature_of(content: bytes, private_pem: bytes) -> bytes:
    """The 64 bytes that sign `content`.

    Raises:
        ValueError: the PEM holds no such key, or one with a password.
    """
    try:
        key = serialization.load_pem_private_key(private_pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(type(key).__name__)
    return key.sign(content)


def is_signed(content: bytes, signature: bytes, public_pem: bytes) -> bool:
    """Whether `signature` is that of `content` by the key.

    Raises:
        ValueError: the PEM holds no such key.
    """
    try:
        key = serialization.load_pem_public_key(public_pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(type(key).__name__)
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
