"""Session tickets that several processes accept: keys derived from a shared secret, set in the libssl of `ssl`.

The standard library cannot set ticket keys, so this calls OpenSSL by ctypes. `unavailable()` tells where that is
impossible; sessions then go on only within one context of one process.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import hmac
import os
import ssl

from attrs import frozen

from ktcpvs.system import openssl
from ktcpvs.system.openssl import pointer

_NAME_BYTES, _KEY_BYTES, _IV_BYTES = 16, 32, 16
_CACHE_MODE, _CACHE_OFF = 44, 0  # SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF

_NEW_TICKET, _FULL_HANDSHAKE, _RESUME, _RESUME_AND_RENEW = 1, 0, 1, 2  # SSL_CTX_set_tlsext_ticket_key_cb(3)


@frozen
class TicketKey:
    """One key of tickets: its public name, the key that encrypts and the key that authenticates."""

    name: bytes
    encryption: bytes
    authentication: bytes


class TicketKeys:
    """The ticket keys of one profile.

    session_context: names the profile in its sessions, so that OpenSSL refuses those of others.
    """

    def __init__(self, profile: str, secret: bytes, previous: bytes | None = None) -> None:
        """secret: shared by all processes, from which tickets are made now; previous: the one before, from which they
        are accepted. Both have at least 32 bytes of chance."""
        self._profile = profile
        self.session_context = hashlib.sha256(b"ktcpvs session " + profile.encode()).digest()
        self.rotate(secret, previous)

    def rotate(self, secret: bytes, previous: bytes | None) -> None:
        """Use other secrets from now on."""
        self.current = derive(secret, self._profile)
        keys = [self.current] if previous is None else [self.current, derive(previous, self._profile)]
        self._by_name = {key.name: key for key in keys}

    def find(self, name: bytes) -> TicketKey | None:
        """The key of that name."""
        return self._by_name.get(name)


def derive(secret: bytes, profile: str) -> TicketKey:
    """Derive the key of a profile: HKDF with SHA-256 (RFC 5869)."""
    if len(secret) < 32:
        raise ValueError("the secret of ticket keys needs 32 bytes")
    pseudorandom = hmac.digest(b"ktcpvs tickets", secret, "sha256")
    output = block = b""
    for number in range(1, 4):
        block = hmac.digest(pseudorandom, block + b"profile " + profile.encode() + bytes((number,)), "sha256")
        output += block
    at = _NAME_BYTES + _KEY_BYTES
    return TicketKey(output[:_NAME_BYTES], output[_NAME_BYTES:at], output[at : at + _KEY_BYTES])


class _Parameter(ctypes.Structure):
    """OSSL_PARAM(3)."""

    _fields_ = [
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    ]


_UTF8_STRING, _OCTET_STRING = 4, 5

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, pointer, pointer, ctypes.c_int)


class _Functions:
    """The functions that tickets need. Raises AttributeError where one is missing."""

    def __init__(self) -> None:
        find = openssl.function
        self.set_callback = find("SSL_CTX_set_tlsext_ticket_key_evp_cb", pointer, _Callback)
        self.set_session_context = find("SSL_CTX_set_session_id_context", pointer, ctypes.c_char_p, ctypes.c_uint)
        self.control = find("SSL_CTX_ctrl", pointer, ctypes.c_int, ctypes.c_long, pointer, result=ctypes.c_long)
        cipher = find("EVP_aes_256_cbc", result=pointer)
        five = (pointer, pointer, pointer, ctypes.c_char_p, pointer)
        self.encrypt = find("EVP_EncryptInit_ex", *five)
        self.decrypt = find("EVP_DecryptInit_ex", *five)
        self.set_mac = find("EVP_MAC_CTX_set_params", pointer, pointer)
        self.aes_256_cbc = cipher()


@functools.cache
def _functions() -> _Functions | str:
    """The functions, or why there are none."""
    if why := openssl.unavailable():
        return why
    try:
        return _Functions()
    except AttributeError:
        return "OpenSSL 3 cannot be reached by ctypes"


def unavailable() -> str:
    """Why tickets cannot be shared by processes here; "" where they can."""
    found = _functions()
    return found if isinstance(found, str) else ""


def use_tickets(context: ssl.SSLContext, keys: TicketKeys) -> bool:
    """Let a server's context make and accept tickets with `keys`. False: that is not possible here."""
    found = _functions()
    if isinstance(found, str):
        return False
    address = openssl.context_address(context)
    found.set_session_context(address, keys.session_context, len(keys.session_context))
    found.control(address, _CACHE_MODE, _CACHE_OFF, None)  # tickets need no memory here
    callback = _Callback(_Tickets(found, keys))
    found.set_callback(address, callback)
    vars(context)["ticket_callback"] = callback  # it must live as long as the connections, and these hold the context
    return True


class _Tickets:
    """Chooses the key of one ticket, as SSL_CTX_set_tlsext_ticket_key_evp_cb(3) describes."""

    def __init__(self, functions: _Functions, keys: TicketKeys) -> None:
        self._functions = functions
        self._keys = keys

    def __call__(self, _: int, name: int, iv: int, cipher: int, mac: int, encrypts: int) -> int:
        functions = self._functions
        if encrypts:
            key: TicketKey | None = self._keys.current
            assert key is not None
            ctypes.memmove(name, key.name, _NAME_BYTES)
            ctypes.memmove(iv, os.urandom(_IV_BYTES), _IV_BYTES)
            start = functions.encrypt
        else:
            key = self._keys.find(ctypes.string_at(name, _NAME_BYTES))
            if key is None:
                return _FULL_HANDSHAKE
            start = functions.decrypt
        secret = ctypes.create_string_buffer(key.authentication, _KEY_BYTES)
        digest = ctypes.create_string_buffer(b"SHA256")
        parameters = (_Parameter * 3)(
            _Parameter(b"key", _OCTET_STRING, ctypes.addressof(secret), _KEY_BYTES, 0),
            _Parameter(b"digest", _UTF8_STRING, ctypes.addressof(digest), len(digest.value), 0),
            _Parameter(None, 0, None, 0, 0),
        )
        if not start(cipher, functions.aes_256_cbc, None, key.encryption, iv):
            return -1
        if not functions.set_mac(mac, ctypes.addressof(parameters)):
            return -1
        if encrypts:
            return _NEW_TICKET
        return _RESUME if key is self._keys.current else _RESUME_AND_RENEW
