"""A CA as its client sees it, on a simulated clock: it issues real certificates, and fails as tests say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from authority import SERVER, Authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ktcpvs.acme.client import Authorization, OrderState, RenewalInfo
from ktcpvs.acme.problems import ACMEProblem
from ktcpvs.acme.schedule import Window
from ktcpvs.errors import BadValue
from ktcpvs.model.challenges import Challenge


class ScriptedCA:
    """calls: the steps that have been asked for. problem: raised instead of the step of that name. state: of orders
    whose challenges are answered. window: that it suggests; None: it suggests none. ends: days until certificates
    expire. issues_for: the names of certificates; (): those of the order."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "issuing")
        self.calls: list[str] = []
        self.problems: dict[str, ACMEProblem] = {}
        self.answered: set[str] = set()
        self.published: list[Challenge] = []
        self.was_published: list[Challenge] = []
        self.publish_refusal = ""
        self.window: Window | None = None
        self.ends = 90
        self.issues_for: tuple[str, ...] = ()
        self.state = "ready"
        self.orders: dict[str, tuple[str, ...]] = {}
        self.replaced: list[str] = []
        self._issued: dict[str, str] = {}

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.problems:
            raise self.problems[name]

    # As a publisher of challenges.

    async def publish(self, challenges: Sequence[Challenge]) -> None:
        if self.publish_refusal:
            raise BadValue(self.publish_refusal)
        self.published += challenges
        self.was_published += challenges

    async def withdraw(self, challenges: Sequence[Challenge]) -> None:
        self.published = [one for one in self.published if one not in challenges]

    # As a client.

    def new_order(self, names: Sequence[str], replaced: str = "") -> str:
        self._step("new_order")
        self.replaced.append(replaced)
        url = f"order/{len(self.orders)}"
        self.orders[url] = tuple(names)
        return url

    def look(self, url: str) -> OrderState:
        self._step("look")
        if url in self._issued:
            return OrderState("valid", (), "", f"{url}/certificate")
        names = self.orders[url]
        asked = tuple(f"{url}/{name}" for name in names)
        state = self.state if self.answered.issuperset(asked) else "pending"
        return OrderState(state, asked, f"{url}/finalize")

    def authorization(self, url: str, kinds: Sequence[str]) -> Authorization:
        self._step("authorization")
        name = url.rpartition("/")[2]
        return Authorization(Challenge(kinds[0], name, f"token-{name}", f"token-{name}.thumb"), url)

    def refusals(self, urls: Sequence[str]) -> str:
        return "; ".join(f"{url.rpartition('/')[2]}: no such name (dns)" for url in urls)

    def answer(self, url: str) -> None:
        self._step("answer")
        assert url.rpartition("/")[2] in {one.name for one in self.published}, "the CA looks for it at once"
        self.answered.add(url)

    def finalize(self, url: str, names: Sequence[str], key: str) -> None:
        self._step("finalize")
        order = url.removesuffix("/finalize")
        assert self.orders[order] == tuple(names)
        made = x509.load_pem_x509_certificate(
            self.authority.issue(
                "template", *(self.issues_for or names), purposes=(SERVER,), ends=self.ends
            ).read_bytes()
        )
        public = load_pem_private_key(key.encode(), None).public_key()
        builder = (
            x509.CertificateBuilder(made.issuer, made.subject, public, x509.random_serial_number())  # type: ignore[arg-type]
            .not_valid_before(made.not_valid_before_utc)
            .not_valid_after(made.not_valid_after_utc)
        )
        for extension in made.extensions:
            if not isinstance(extension.value, x509.SubjectKeyIdentifier):
                builder = builder.add_extension(extension.value, extension.critical)
        certificate = builder.sign(self.authority.key, hashes.SHA256())
        self._issued[order] = certificate.public_bytes(Encoding.PEM).decode()

    def download(self, url: str) -> str:
        self._step("download")
        return self._issued[url.removesuffix("/certificate")]

    def renewal_info(self, pem: str) -> RenewalInfo | None:
        self._step("renewal_info")
        return None if self.window is None else RenewalInfo(self.window, None)
