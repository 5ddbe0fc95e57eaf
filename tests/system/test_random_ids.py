"""Random identifiers."""

from __future__ import annotations

import os
import re

from ktcpvs.system.random_ids import ID_BYTES, IDS_PER_DRAW, RandomIDs, request_ids


def test_all_identifiers_differ_and_have_their_form() -> None:
    ids = RandomIDs()
    made = [ids.make() for _ in range(3 * IDS_PER_DRAW + 1)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(rb"[0-9a-f]{%d}" % (2 * ID_BYTES), one) for one in made)


def test_a_process_that_forks_shares_no_identifier() -> None:
    request_ids.make()  # so that some are left
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        os.write(writer, request_ids.make())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    others = {request_ids.make() for _ in range(IDS_PER_DRAW)}
    given = os.read(reader, 100)
    os.close(reader)
    assert len(given) == 2 * ID_BYTES
    assert given not in others
