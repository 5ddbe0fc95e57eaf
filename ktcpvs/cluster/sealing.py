"""Authenticated encryption of values in etcd, with secrets that only the nodes of the cluster have.

AES-256-GCM, bound to the key of etcd under which a value is stored, so that a value which somebody moves to another key
does not open.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from os import urandom

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32
"""The size of a secret of the cluster."""

_NONCE_BYTES = 12  # NIST SP 800-38D: a random nonce of this size is safe for 2**32 values of one key
_ID_BYTES = 8


class CannotOpen(Exception):
    """A sealed value does not open; str() says why, in one line."""


@frozen
class _Key:
    """A key made from one secret of the cluster. name: tells the key from others, without telling anything about it."""

    name: str
    cipher: AESGCM = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> _Key:
        return cls(_derive(secret, b"name", _ID_BYTES).hex(), AESGCM(_derive(secret, b"key", 32)))


def _derive(secret: bytes, use: bytes, size: int) -> bytes:
    """RFC 5869."""
    return HKDF(SHA256(), size, salt=None, info=b"ktcpvs cluster " + use).derive(secret)


class Sealer:
    """Seals values with the first one of its secrets, and opens those that were sealed with any of them."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """secrets: the newest first, at least one, each of SECRET_BYTES."""
        self._keys = [_Key.of(secret) for secret in secrets]

    def __repr__(self) -> str:
        return f"<Sealer {' '.join(key.name for key in self._keys)}>"

    def seal(self, name: str, value: bytes) -> str:
        """Return a value in the form in which it may be stored. name: the key of etcd under which it is stored."""
        key = self._keys[0]
        nonce = urandom(_NONCE_BYTES)
        sealed = nonce + key.cipher.encrypt(nonce, value, _associated(name))
        return f"{key.name}:{b64encode(sealed).decode('ascii')}"

    def open(self, name: str, sealed: str) -> bytes:
        """Return the value that `seal` was given with the same name. Raises CannotOpen."""
        known = next((key for key in self._keys if key.name == _name_of(sealed)), None)
        if known is None:
            raise CannotOpen("sealed with another --cluster-secret")
        try:
            data = b64decode(sealed.partition(":")[2], validate=True)
            return known.cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _associated(name))
        except (binascii.Error, ValueError, InvalidTag):
            raise CannotOpen("changed by somebody, or moved here from another key of etcd") from None

    def is_newest(self, sealed: str) -> bool:
        """Return whether a value was sealed with the first one of the secrets."""
        return _name_of(sealed) == self._keys[0].name


def _name_of(sealed: str) -> str:
    return sealed.partition(":")[0]


def _associated(name: str) -> bytes:
    return b"ktcpvs sealed 1 " + name.encode()
