"""The address of a cluster: `etcd:URL[,URL...]/PREFIX`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from attrs import frozen

from ktcpvs.errors import BadAddress, shorten

FORM = "etcd:http://HOST:2379[,http://HOST:2379...]/PREFIX"

_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@frozen
class EtcdAddress:
    """The address of a cluster's table in etcd. urls: of the members, without a path. prefix: of all keys of this
    cluster, with a slash at both ends."""

    urls: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        return f"etcd:{','.join(self.urls)}{self.prefix.rstrip('/')}"

    @property
    def is_tls(self) -> bool:
        return self.urls[0].startswith("https:")


def parse_etcd_address(text: str) -> EtcdAddress:
    """Raises BadAddress."""

    def bad(why: str) -> BadAddress:
        return BadAddress(f"--cluster {shorten(text, 200)}: {why} (expected {FORM})")

    if not text.startswith("etcd:"):
        raise bad("it does not begin with etcd:")
    *first, last = text.removeprefix("etcd:").split(",")
    found = urlsplit(last)
    prefix = found.path.strip("/")
    if not _PREFIX.fullmatch(prefix):
        raise bad("the prefix is missing, or has other characters than letters, digits, '.', '_', '-' and '/'")
    urls = tuple(url.rstrip("/") for url in (*first, f"{found.scheme}://{found.netloc}"))
    for url in urls:
        try:
            parts = urlsplit(url)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
        except ValueError:
            is_good = False
        if not is_good or parts.path or parts.query or parts.username is not None:
            raise bad(f"'{shorten(url, 100)}' is not the URL of a member with its port")
    if len({urlsplit(url).scheme for url in urls}) > 1:
        raise bad("some members have http, others https")
    return EtcdAddress(urls, f"/{prefix}/")
