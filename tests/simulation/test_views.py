"""The view of a service for tests of schedulers."""

from __future__ import annotations

import pytest

from ktcpvs.errors import BadValue
from ktcpvs.testing import service_of


def test_options_need_the_scheduler() -> None:
    options = service_of(2).options
    assert not options
    with pytest.raises(KeyError, match=r"field: the view has no options of a scheduler; give it: "):
        options["field"]
    with pytest.raises(BadValue, match=r"^named='mine depth 3': its options need the scheduler: service_of"):
        service_of(2, named="mine depth 3")
