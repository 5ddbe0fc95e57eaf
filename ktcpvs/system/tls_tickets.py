"""Session tickets that several processes accept: keys derived from a shared secret, set in the libssl of `ssl`.

The standard library cannot set ticket keys, so this calls OpenSSL by ctypes. `unavailable()` tells where that is
impossible; sessions then go on only within one context of one process.

OpenSSL asks a callback for the key of each ticket. `_tickets.c` has it; without the extension, `_Tickets` does the same
in Python, which costs some 50 us for each ticket that is made or accepted.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import hmac
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from ktcpvs.system import openssl
from ktcpvs.system.openssl import pointer

IS_COMPILED = False

_configure: Callable[..., int]

if not TYPE_CHECKING:
    try:
        from ktcpvs.system._tickets import configure as _configure
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True

_NAME_BYTES, _KEY_BYTES, _IV_BYTES = 16, 32, 16
_CACHE_MODE, _CACHE_OFF = 44, 0  # SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF
_CONTEXT_DATA = 1  # CRYPTO_EX_INDEX_SSL_CTX

_NEW_TICKET, _FULL_HANDSHAKE, _RESUME, _RESUME_AND_RENEW = 1, 0, 1, 2  # SSL_CTX_set_tlsext_ticket_key_cb(3)


@frozen
class TicketKey:
    """One key of tickets: its public name, the key that encrypts and the key that authenticates."""

    name: bytes
    encryption: bytes
    authentication: bytes


class TicketKeys:
    """The ticket keys of one profile.

    session_context: names the profile in its sessions, so that OpenSSL refuses those of others. keys: those whose
    tickets are accepted; tickets are made with the first one.
    """

    def __init__(self, profile: str, secret: bytes, previous: bytes | None = None) -> None:
        """secret: shared by all processes, from which tickets are made now; previous: the one before, from which they
        are accepted. Both have at least 32 bytes of chance."""
        self._profile = profile
        self.session_context = hashlib.sha256(b"ktcpvs session " + profile.encode()).digest()
        self.rotate(secret, previous)

    def rotate(self, secret: bytes, previous: bytes | None) -> None:
        """Use other secrets from now on."""
        secrets = (secret,) if previous is None else (secret, previous)
        self.keys = tuple(derive(one, self._profile) for one in secrets)

    @property
    def current(self) -> TicketKey:
        """The key with which tickets are made."""
        return self.keys[0]

    def find(self, name: bytes) -> TicketKey | None:
        """The key of that name."""
        return next((key for key in self.keys if key.name == name), None)


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
        self.set_callback = find("SSL_CTX_set_tlsext_ticket_key_evp_cb", pointer, pointer)
        self.set_session_context = find("SSL_CTX_set_session_id_context", pointer, ctypes.c_char_p, ctypes.c_uint)
        self.control = find("SSL_CTX_ctrl", pointer, ctypes.c_int, ctypes.c_long, pointer, result=ctypes.c_long)
        self.version = find("SSL_version", pointer)
        fetch = find("EVP_CIPHER_fetch", pointer, ctypes.c_char_p, ctypes.c_char_p, result=pointer)
        five = (pointer, pointer, pointer, ctypes.c_char_p, pointer)
        self.encrypt = find("EVP_EncryptInit_ex", *five)
        self.decrypt = find("EVP_DecryptInit_ex", *five)
        self.set_mac = find("EVP_MAC_CTX_set_params", pointer, pointer)
        self.aes_256_cbc = fetch(None, b"AES-256-CBC", None)
        if not self.aes_256_cbc:
            raise AttributeError("AES-256-CBC")
        self.set_data = find("SSL_CTX_set_ex_data", pointer, ctypes.c_int, pointer)
        new_index = find("CRYPTO_get_ex_new_index", ctypes.c_int, ctypes.c_long, pointer, pointer, pointer, pointer)
        self.index = new_index(_CONTEXT_DATA, 0, None, None, None, None)
        self.compiled_callback = self._configure() if IS_COMPILED else 0

    def _configure(self) -> int:
        """Return the address of the compiled callback."""
        names = (
            "SSL_get_SSL_CTX", "SSL_CTX_get_ex_data", "SSL_version", "RAND_bytes", "EVP_EncryptInit_ex",
            "EVP_DecryptInit_ex", "EVP_MAC_CTX_set_params",
        )  # fmt: skip
        return _configure(*map(openssl.function_address, names), self.aes_256_cbc, self.index)


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
    """Return why tickets cannot be shared by processes here; "" where they can."""
    found = _functions()
    return found if isinstance(found, str) else ""


def use_tickets(context: ssl.SSLContext, keys: TicketKeys, is_compiled: bool = IS_COMPILED) -> bool:
    """Let a server's context make and accept tickets with `keys`. False: that is not possible here. is_compiled: by the
    compiled callback, which must be installed."""
    found = _functions()
    if isinstance(found, str):
        return False
    address = openssl.context_address(context)
    found.set_session_context(address, keys.session_context, len(keys.session_context))
    found.control(address, _CACHE_MODE, _CACHE_OFF, None)  # tickets need no memory here
    # What the callback needs must live as long as the connections, and these hold the context.
    if is_compiled:
        vars(context)["ticket_keys"] = keys
        found.set_data(address, found.index, id(keys))
        found.set_callback(address, found.compiled_callback)
    else:
        callback = vars(context)["ticket_callback"] = _Callback(_Tickets(found, keys))
        found.set_callback(address, ctypes.cast(callback, pointer))
    return True


class _Tickets:
    """Chooses the key of one ticket, as SSL_CTX_set_tlsext_ticket_key_evp_cb(3) describes."""

    def __init__(self, functions: _Functions, keys: TicketKeys) -> None:
        self._functions = functions
        self._keys = keys

    def __call__(self, connection: int, name: int, iv: int, cipher: int, mac: int, encrypts: int) -> int:
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
        # Clients of TLS 1.3 use a ticket once (RFC 8446, appendix C.4), so a resumed connection must bring another.
        is_renewed = key is not self._keys.current or functions.version(connection) >= ssl.TLSVersion.TLSv1_3
        return _RESUME_AND_RENEW if is_renewed else _RESUME
