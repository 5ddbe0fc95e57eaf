"""The conversation with a CA, on the packages `acme` and `josepy`: requests that block, to be made in a thread.

Importing this module imports both packages, so that only a switch with `certificate = acme` pays for them.
"""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import requests
from acme import crypto_util, errors, messages
from acme.client import ClientNetwork, ClientV2
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy.errors import DeserializationError
from josepy.errors import Error as JoseError
from josepy.interfaces import JSONDeSerializable
from josepy.json_util import field as json_field
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from ktcpvs.acme.bounded_adapter import BoundedAdapter
from ktcpvs.acme.problems import ACMEProblem
from ktcpvs.acme.schedule import Window
from ktcpvs.acme.self_signed import make_key
from ktcpvs.acme.store import Account
from ktcpvs.errors import shorten
from ktcpvs.model.challenges import Challenge
from ktcpvs.protocols.retry_after import parse_retry_after
from ktcpvs.system.files import read_file
from ktcpvs.version import __version__

T = TypeVar("T")

NETWORK_TIMEOUT = 30
"""Seconds within which the CA must accept a connection, and within which each part of its response must come."""

DIRECTORY_LIFETIME = 3600.0
"""Seconds after which the directory is read again."""

MAX_WORDS = 500
"""The most characters of what a CA says in one message."""

MAX_PROBLEMS = 5
"""The most names of an order for which a message says what is wrong."""

PENDING, READY, PROCESSING, VALID, INVALID = "pending", "ready", "processing", "valid", "invalid"
"""The states of an order (RFC 8555 section 7.1.6)."""

_OF_CA = frozenset(("serverInternal", "accountDoesNotExist", "externalAccountRequired", "badSignatureAlgorithm"))
"""The errors of ACME that have nothing to do with the names of an order."""


@frozen
class CA:
    """A CA as the settings name it. directory: URL. email: "": none. authorities: the path of the CAs that verify its
    TLS; "": those of the system. eab_kid, eab_key: of an external account, the latter a path; "": none. profile: "":
    the CA's default."""

    directory: str
    email: str = ""
    authorities: str = ""
    eab_kid: str = ""
    eab_key: str = ""
    profile: str = ""


@frozen
class Authorization:
    """A name of an order. challenge: to be published; None: nothing is to be done for this name. url: of the
    challenge, to be answered there; "": it has been answered, before a restart, and the CA may look at any moment."""

    challenge: Challenge | None
    url: str = ""


@frozen
class OrderState:
    """An order as the CA describes it. state: one of those above. retry_after: seconds until it is worth to look again;
    None: the CA does not say. authorizations, finalize, certificate: URLs; the last "" until there is one. error: why
    it is INVALID, in the CA's words."""

    state: str
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str = ""
    error: str = ""
    retry_after: float | None = None


@frozen
class RenewalInfo:
    """The time at which the CA suggests to renew a certificate. retry_after: seconds until it may be asked again; None:
    it does not say."""

    window: Window
    retry_after: float | None


class Accounts:
    """The accounts that are kept, as the client needs them."""

    def __init__(
        self,
        load: Callable[[str, str], Account | None],
        save: Callable[[Account], object],
        delete: Callable[[str, str], object],
    ) -> None:
        """load, delete: get the directory and the external account. save: gets a new account."""
        self.load, self.save, self.delete = load, save, delete


class ACMEClient:
    """Speaks with one CA. Its methods block, and raise ACMEProblem."""

    def __init__(self, ca: CA, accounts: Accounts, now: Callable[[], float]) -> None:
        """now: returns seconds since 1970."""
        self.ca = ca
        self._accounts = accounts
        self._now = now
        self._client: ClientV2 | None = None
        self._key: JWK | None = None  # of the account
        self._connected = 0.0
        self._retry_after: float | None = None  # of the last response

    # Orders.

    def new_order(self, names: Sequence[str], replaced: str = "") -> str:
        """Order a certificate for these names, and return the URL of the order. replaced: the certificate that it
        replaces, in PEM; "": none."""
        client = self._connect()
        identifiers = [messages.Identifier(typ=_kind(name), value=name) for name in names]
        values: dict[str, Any] = {"identifiers": identifiers}
        if self.ca.profile:
            values["profile"] = self.ca.profile
        has_renewal_info = "renewalInfo" in client.directory.to_partial_json()
        if replaced and has_renewal_info:
            try:
                return self._call(self._post_order, client, {**values, "replaces": renewal_identifier(replaced)})
            except ACMEProblem as problem:
                # The CA does not know the certificate any more, or has seen another order that replaces it.
                if problem.is_of_ca or problem.retry_after is not None:
                    raise
        return self._call(self._post_order, client, values)

    def _post_order(self, client: ClientV2, values: dict[str, Any]) -> str:
        response = self._post(client, client.directory["newOrder"], _NewOrder(**values))
        return str(response.headers["Location"])

    def look(self, url: str) -> OrderState:
        """Return the state of an order."""
        client = self._connect()

        def look() -> OrderState:
            response = self._post(client, url, None)
            order = messages.Order.from_json(response.json())
            return OrderState(
                order.status.name,
                tuple(order.authorizations),
                order.finalize or "",
                order.certificate or "",
                "" if order.error is None else _words(order.error),
                self._retry_after,
            )

        return self._call(look)

    def authorization(self, url: str, kinds: Sequence[str]) -> Authorization:
        """Return what is to be done for a name of an order. kinds: of challenges, the preferred one first. Raises
        ACMEProblem if the CA offers none of them, or has refused the name."""
        found = self._authorization(url)
        name = found.identifier.value
        if found.status.name == VALID:
            return Authorization(None)
        if found.status.name != PENDING:
            raise ACMEProblem(f"{name}: {self._refusal(found)}")
        # The package has a class for some kinds of challenges only; of the others it keeps what the CA has sent.
        offered = {str(data["type"]): (one, data) for one in found.challenges for data in [one.chall.to_partial_json()]}
        for kind in kinds:
            if kind in offered:
                return self._offered(*offered[kind], name)
        offers = ", ".join(sorted(offered))
        raise ACMEProblem(f"{name}: the CA offers only {offers or 'no challenge'}, and this switch {', '.join(kinds)}")

    def _offered(self, offered: messages.ChallengeBody, data: Mapping[str, Any], name: str) -> Authorization:
        assert self._key is not None
        kind, token = str(data["type"]), str(data["token"])
        thumbprint = base64.urlsafe_b64encode(self._key.thumbprint()).decode("ascii").rstrip("=")
        challenge = Challenge(kind, name, token, f"{token}.{thumbprint}")
        return Authorization(challenge, offered.uri if offered.status.name == PENDING else "")

    def _authorization(self, url: str) -> messages.Authorization:
        client = self._connect()

        def read() -> messages.Authorization:
            found: messages.Authorization = messages.Authorization.from_json(self._post(client, url, None).json())
            return found

        return self._call(read)

    def refusals(self, urls: Sequence[str]) -> str:
        """Return why the CA has not accepted names of an order, in its words; "": it says nothing. urls: of the
        authorizations."""
        found = []
        for url in urls:
            authorization = self._authorization(url)
            if authorization.status.name == INVALID:
                found.append(f"{authorization.identifier.value}: {self._refusal(authorization)}")
        more = f"; and {len(found) - MAX_PROBLEMS} names more" if len(found) > MAX_PROBLEMS else ""
        return "; ".join(found[:MAX_PROBLEMS]) + more

    @staticmethod
    def _refusal(authorization: messages.Authorization) -> str:
        said = [_words(one.error) for one in authorization.challenges if one.error is not None]
        return "; ".join(said) or f"the CA's authorization is {authorization.status.name}"

    def answer(self, url: str) -> None:
        """Tell the CA that a challenge is answered from now on. url: of the challenge."""
        client = self._connect()
        self._call(self._post, client, url, _NOTHING)

    def finalize(self, url: str, names: Sequence[str], key: str) -> None:
        """Have the CA issue the certificate of an order that is READY. url: for that. key: of the certificate, in
        PEM."""
        client = self._connect()
        hosts = [name for name in names if not _is_address(name)]
        addresses = [ipaddress.ip_address(name) for name in names if _is_address(name)]
        request = x509.load_pem_x509_csr(crypto_util.make_csr(key.encode("ascii"), hosts, ipaddrs=addresses))
        self._call(self._post, client, url, messages.CertificateRequest(csr=request))

    def download(self, url: str) -> str:
        """Return a certificate with its chain, in PEM."""
        client = self._connect()
        return self._call(lambda: self._post(client, url, None).text)

    # Renewal information.

    def renewal_info(self, pem: str) -> RenewalInfo | None:
        """Return when the CA suggests to renew a certificate; None: it makes no suggestions. pem: with its chain."""
        client = self._connect(needs_account=False)
        base = client.directory.to_partial_json().get("renewalInfo")
        if not base or not (identifier := renewal_identifier(pem)):
            return None

        def ask() -> RenewalInfo:
            response = client.net.get(f"{base}/{identifier}", content_type=ClientNetwork.JSON_CONTENT_TYPE)
            found = messages.RenewalInfo.from_json(response.json()).suggested_window
            return RenewalInfo(Window(found.start.timestamp(), found.end.timestamp()), self._retry_after)

        return self._call(ask)

    # The connection.

    def _connect(self, needs_account: bool = True) -> ClientV2:
        """Return a client that has the directory and, if needed, an account, which is made with the first order."""
        now = self._now()
        if self._client is None or not 0 <= now - self._connected < DIRECTORY_LIFETIME:
            self._client = self._call(self._read_directory)
            self._connected = now
        if needs_account and self._client.net.account is None:
            account = self._accounts.load(self.ca.directory, self.ca.eab_kid)
            if account is None:
                account = self._new_account(self._client)
                self._accounts.save(account)
            self._use(self._client, account)
        return self._client

    def _new_account(self, client: ClientV2) -> Account:
        try:
            return self._call(self._register, client)
        except ACMEProblem as problem:
            problem.is_of_ca = True  # whatever it is: without an account there is no certificate for any name
            raise

    def _read_directory(self) -> ClientV2:
        net = ClientNetwork(user_agent=f"ktcpvs/{__version__}", alg=ES256, timeout=NETWORK_TIMEOUT)
        net.verify_ssl = cast(bool, self._authorities())  # requests takes a path too
        for scheme in ("https://", "http://"):
            net.session.mount(scheme, BoundedAdapter())
        net.session.hooks["response"].append(self._note_response)
        return ClientV2(ClientV2.get_directory(self.ca.directory, net), net)

    def _authorities(self) -> str | bool:
        """Return the CAs that verify the directory's TLS: `requests` would not take those of the system by itself."""
        if self.ca.authorities:
            _read(self.ca.authorities, "acme_ca")
            return self.ca.authorities
        paths = ssl.get_default_verify_paths()
        return paths.cafile or paths.capath or True

    def _note_response(self, response: requests.Response, *args: object, **values: object) -> None:
        self._retry_after = parse_retry_after(response.headers.get("Retry-After"), self._now())

    def _register(self, client: ClientV2) -> Account:
        """Make an account. Its key is new, so the CA cannot have one for it."""
        key = make_key()
        jwk = _jwk(key)
        client.net.key, client.net.account = jwk, None
        binding = None
        if self.ca.eab_kid:
            secret = _read(self.ca.eab_key, "acme_eab_key").decode("ascii", "replace").strip()
            try:
                binding = messages.ExternalAccountBinding.from_data(
                    jwk.public_key(), self.ca.eab_kid, secret, client.directory
                )
            except (ValueError, TypeError, DeserializationError):
                form = "expected the key in base64url, as the CA has given it"
                raise ACMEProblem(f"acme_eab_key: {self.ca.eab_key}: {form}", is_of_ca=True) from None
        elif client.external_account_required():
            why = "the CA requires an external account: set acme_eab_kid and acme_eab_key, which it has given to you"
            raise ACMEProblem(why, is_of_ca=True)
        registration = messages.NewRegistration.from_data(
            email=self.ca.email or None, terms_of_service_agreed=True, external_account_binding=binding
        )
        made = _past_bad_nonces(client.new_account, registration)
        return Account(self.ca.directory, made.uri, key, self.ca.eab_kid)

    def _use(self, client: ClientV2, account: Account) -> None:
        jwk = _jwk(account.key)
        client.net.key = self._key = jwk
        client.net.account = messages.RegistrationResource(body=messages.Registration(), uri=account.uri)

    @staticmethod
    def _post(client: ClientV2, url: str, content: JSONDeSerializable | None) -> requests.Response:
        """Send a request signed by the account. content: None: a request that only reads (RFC 8555 section 6.3)."""
        return _past_bad_nonces(_send, client, url, content)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that speaks with the CA. Raises ACMEProblem for all that can go wrong."""
        self._retry_after = None
        try:
            return function(*arguments)
        except ACMEProblem:
            raise
        except messages.Error as error:
            raise self._problem(error) from None
        except (requests.RequestException, OSError) as error:
            self._client = None
            raise ACMEProblem(
                f"{self.ca.directory}: {_network_reason(error)}", is_of_ca=True, is_unreachable=True,
                is_order_lost=False, retry_after=self._retry_after,
            ) from None  # fmt: skip
        except errors.ClientError as error:
            self._client = None
            text = f"{self.ca.directory}: unexpected response: {_response_of(error)}"
            raise ACMEProblem(text, is_of_ca=True, is_order_lost=False, retry_after=self._retry_after) from None
        except (errors.Error, JoseError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            self._client = None
            text = f"{self.ca.directory}: unexpected response: {shorten(repr(error), MAX_WORDS)}"
            raise ACMEProblem(text, is_of_ca=True, is_order_lost=False) from None

    def _problem(self, error: messages.Error) -> ACMEProblem:
        """Return what the CA has refused, in its words."""
        if error.code == "accountDoesNotExist":  # the CA has lost it: the next attempt makes another one
            self._accounts.delete(self.ca.directory, self.ca.eab_kid)
            self._client = None
        is_of_ca = error.code in _OF_CA
        is_temporary = error.code in ("rateLimited", "serverInternal", "badNonce")
        return ACMEProblem(
            _words(error), is_of_ca=is_of_ca, retry_after=self._retry_after, is_order_lost=not is_temporary
        )


MAX_NONCES = 4
"""The most attempts to send a request whose nonce the CA refuses; the package `acme` makes two of each."""


def _past_bad_nonces(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that sends a request, again while the CA refuses its nonce (RFC 8555 section 6.5)."""
    for _ in range(MAX_NONCES - 1):
        try:
            return function(*arguments)
        except messages.Error as error:
            if error.code != "badNonce":
                raise
    return function(*arguments)


class _NewOrder(messages.NewOrder):
    """An order that may replace a certificate (RFC 9773 section 5)."""

    replaces: str | None = json_field("replaces", omitempty=True)


class _Empty(JSONDeSerializable):
    """The content `{}`, which answers a challenge (RFC 8555 section 7.5.1)."""

    def to_partial_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, jobj: Any) -> _Empty:
        return cls()


_NOTHING = _Empty()


def _send(client: ClientV2, url: str, content: JSONDeSerializable | None) -> requests.Response:
    # The package takes None for a request that only reads, and does not say so in its types.
    return client.net.post(url, cast(JSONDeSerializable, content), new_nonce_url=client.directory["newNonce"])


def _jwk(key: str) -> JWKEC:
    private = load_pem_private_key(key.encode("ascii"), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return JWKEC(key=private)


def _kind(name: str) -> messages.IdentifierType:
    return messages.IDENTIFIER_IP if _is_address(name) else messages.IDENTIFIER_FQDN


def _is_address(name: str) -> bool:
    return ":" in name or name.rpartition(".")[2].isdigit()


def _read(path: str, setting: str) -> bytes:
    """Read a file that a setting names. Raises ACMEProblem."""
    try:
        return read_file(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        shown = path or "no file is named"
        raise ACMEProblem(f"{setting}: {shown}: {why}", is_of_ca=True, is_order_lost=False) from None


def _words(error: messages.Error) -> str:
    """Return what a CA says, in one line."""
    subproblems = [_words(one) for one in error.subproblems or ()]
    code = str(error.typ).removeprefix(messages.ERROR_PREFIX)
    words = " ".join(str(error.detail or error.title or error.description or "no reason is given").split())
    whose = f"{error.identifier.value}: " if error.identifier is not None else ""
    return "; ".join([f"{whose}{shorten(words, MAX_WORDS)} ({shorten(code, 64)})", *subproblems[:MAX_PROBLEMS]])


def _network_reason(error: BaseException) -> str:
    """Return why the CA cannot be reached, from an exception of requests, which wraps that of the operating system."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {found.verify_message}"
        if isinstance(found, OSError) and found.strerror and not isinstance(found, requests.RequestException):
            return found.strerror
        inner = [one for one in found.args if isinstance(one, BaseException)] + [getattr(found, "reason", None)]
        found = next((one for one in inner if isinstance(one, BaseException)), found.__cause__ or found.__context__)
    if isinstance(error, requests.Timeout):
        return f"no response within {NETWORK_TIMEOUT} s"
    return shorten(str(error), MAX_WORDS)


def _response_of(error: errors.ClientError) -> str:
    for one in error.args:
        if isinstance(one, requests.Response):
            return f"{one.status_code} {shorten(one.reason or '', 64)}"
    return shorten(str(error) or type(error).__name__, MAX_WORDS)


def renewal_identifier(pem: str) -> str:
    """Return the identifier of a certificate with which a CA is asked when to renew it (RFC 9773 section 4.1); "": its
    certificate does not name the key of its CA."""
    certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return ""
    if not found:
        return ""
    serial = certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # with room for the sign, as in DER
    return ".".join(base64.urlsafe_b64encode(part).decode("ascii").rstrip("=") for part in (found, number))
