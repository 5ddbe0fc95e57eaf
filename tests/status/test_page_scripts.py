"""The page's scripts and the Python of the switch compute the same percentiles."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

from servers import program

from ktcpvs.model.latency import BUCKETS, within

PAGE = Path(__file__).parents[2] / "ktcpvs" / "status" / "page"

SCRIPT = """
const { within } = await import(process.argv[1]);
const cases = JSON.parse(process.argv[2]);
console.log(JSON.stringify(cases.map(([buckets, bounds, share]) => within(buckets, bounds, share))));
"""


def test_percentiles_of_the_page_are_those_of_tcpvsadm(tmp_path: Path) -> None:
    chance = random.Random(1)
    cases = [([0] * (len(BUCKETS) + 1), 0.5)]
    for _ in range(50):
        buckets = [chance.choice((0, 0, 1, 7, 1000)) for _ in range(len(BUCKETS) + 1)]
        cases.append((buckets, chance.choice((0.0, 0.5, 0.99, 1.0))))
    module = tmp_path / "measure.mjs"
    module.write_text((PAGE / "measure.js").read_text())
    given = json.dumps([[buckets, BUCKETS, share] for buckets, share in cases])
    command = [program("node"), "--input-type=module", "-e", SCRIPT, str(module), given]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found == [within(buckets, share) for buckets, share in cases]
