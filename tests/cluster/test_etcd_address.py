"""The address of a cluster."""

import pytest

from ktcpvs.cluster.etcd_address import EtcdAddress, parse_etcd_address
from ktcpvs.errors import BadAddress


@pytest.mark.parametrize(
    ("text", "urls", "prefix"),
    [
        ("etcd:http://127.0.0.1:2379/ktcpvs", ("http://127.0.0.1:2379",), "/ktcpvs/"),
        ("etcd:http://a:1,http://[::1]:2/x/y/", ("http://a:1", "http://[::1]:2"), "/x/y/"),
        ("etcd:https://a.example:2379/prod-1", ("https://a.example:2379",), "/prod-1/"),
    ],
)
def test_what_is_accepted(text: str, urls: tuple[str, ...], prefix: str) -> None:
    found = parse_etcd_address(text)
    assert found == EtcdAddress(urls, prefix)
    assert parse_etcd_address(str(found)) == found
    assert found.is_tls == urls[0].startswith("https")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://127.0.0.1:2379/x", "does not begin with etcd:"),
        ("etcd:http://127.0.0.1:2379", "the prefix is missing"),
        ("etcd:http://127.0.0.1:2379/", "the prefix is missing"),
        ("etcd:http://127.0.0.1:2379/a b", "other characters"),
        ("etcd:http://127.0.0.1/x", "'http://127.0.0.1' is not the URL of a member with its port"),
        ("etcd:http://127.0.0.1:99999/x", "is not the URL"),
        ("etcd:ftp://127.0.0.1:2379/x", "is not the URL"),
        ("etcd:http://u:p@h:2379/x", "is not the URL"),
        ("etcd:http://a:1/q,http://b:1/x", "'http://a:1/q' is not the URL"),
        ("etcd:http://a:1,https://b:1/x", "some members have http, others https"),
        ("etcd:/x", "is not the URL"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadAddress) as refused:
        parse_etcd_address(text)
    assert why in str(refused.value)
    assert "expected etcd:http://HOST:2379" in str(refused.value)
    assert "\n" not in str(refused.value)
