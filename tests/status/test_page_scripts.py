"""The page's scripts: percentiles are those of the Python of the switch, and what is not known is not shown as 0."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from servers import program

from ktcpvs.model.latency import BUCKETS, within

PAGE = Path(__file__).parents[2] / "ktcpvs" / "status" / "page"

SCRIPT = """
const called = await import(process.argv[1]);
const cases = JSON.parse(process.argv[3]);
console.log(JSON.stringify(cases.map((given) => called[process.argv[2]](...given))));
"""

NOTHING = "\N{EN DASH}"
"""The text of the page where nothing is known."""

BOUNDS = [0.1, 1]
"""Of the buckets of latencies, in seconds."""

NO_SERVER: dict[str, Any] = {
    "total": 0, "failures": 0, "bytes_in": 0, "bytes_out": 0, "answers": {"5xx": 0}, "buckets": [0, 0, 0],
}  # fmt: skip


def called(folder: Path, script: str, function: str, *cases: list[Any]) -> Any:
    """Call a function of a script of the page, which imports no other one, with the arguments of each case."""
    module = folder / "script.mjs"
    module.write_text((PAGE / script).read_text())
    command = [program("node"), "--input-type=module", "-e", SCRIPT, str(module), function, json.dumps(cases)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def service(requests: int, rules: dict[str, int], *servers: int, unit: str = "EACH_REQUEST") -> dict[str, Any]:
    """A service in the data of the page. rules: label -> requests. servers: the requests of each."""
    return {
        "unit": unit,
        "servers": [
            {"address": f"10.0.0.{number}:80", "stats": {**NO_SERVER, "total": total}}
            for number, total in enumerate(servers, 1)
        ],
        "rules": [{"label": label} for label in ("canary", "constructor", "stable")],
        "stats": {
            "active": 0, "queued": 0, "requests": requests, "total": requests, "bytes_in": 0, "bytes_out": 0,
            "refusals": {}, "rules": rules, "broken_responses": 0,
        },
    }  # fmt: skip


def test_percentiles_of_the_page_are_those_of_tcpvsadm(tmp_path: Path) -> None:
    chance = random.Random(1)
    cases = [([0] * (len(BUCKETS) + 1), 0.5)]
    for _ in range(50):
        buckets = [chance.choice((0, 0, 1, 7, 1000)) for _ in range(len(BUCKETS) + 1)]
        cases.append((buckets, chance.choice((0.0, 0.5, 0.99, 1.0))))
    found = called(tmp_path, "measure.js", "within", *([buckets, BUCKETS, share] for buckets, share in cases))
    assert found == [within(buckets, share) for buckets, share in cases]


def test_nothing_is_known_of_the_last_seconds_in_the_first_update(tmp_path: Path) -> None:
    now = service(900, {"canary": 90, "stable": 810}, 90, 810)
    known = service(400, {"stable": 400}, 0)
    first, second = called(tmp_path, "measure.js", "measureService", [now, None, 0, BOUNDS], [now, known, 5, BOUNDS])
    for measured in (first, *first["servers"]):
        assert [measured[name] for name in ("rate", "errors", "in", "out", "half", "slow")] == [None] * 6
    canary, uncounted, stable = first["rules"]
    assert canary == {"rate": None, "share": None, "total": 90}
    assert uncounted == {"rate": None, "share": None, "total": None}, "whatever an object of JavaScript has"
    assert stable == {"rate": None, "share": None, "total": 810}

    assert (second["rate"], second["servers"][0]["rate"], second["servers"][0]["errors"]) == (100, 18, 0)
    assert second["servers"][1]["rate"] is None, "it was not there before"
    assert second["rules"][0] == {"rate": None, "share": None, "total": 90}, "nor was the rule"
    assert second["rules"][2] == {"rate": 82, "share": 0.82, "total": 810}


def test_errors_of_a_service_are_those_that_its_clients_got(tmp_path: Path) -> None:
    now, then = service(900, {}, 900), service(400, {}, 400)
    now["stats"] |= {"broken_responses": 40, "refusals": {"503": 5, "404": 7}}
    now["servers"][0]["stats"] |= {"answers": {"5xx": 20}, "failures": 300}
    then["stats"]["broken_responses"] = 5
    (measured,) = called(tmp_path, "measure.js", "measureService", [now, then, 5, BOUNDS])
    assert (measured["allErrors"], measured["errors"]) == (65, 12)


def test_the_share_of_a_rule_is_that_of_the_requests_of_the_last_seconds(tmp_path: Path) -> None:
    then = service(1000, {"canary": 1000, "stable": 0})
    cases = (service(1100, {"canary": 1010, "stable": 90}), then, service(1000, {"canary": 1001, "stable": 1}))
    kept, still, waiting = called(tmp_path, "measure.js", "measureService", *([now, then, 5, BOUNDS] for now in cases))
    assert [rule["share"] for rule in kept["rules"]] == [0.1, None, 0.9]
    assert [rule["share"] for rule in still["rules"]] == [None, None, None]
    assert [rule["share"] for rule in waiting["rules"]] == [None, None, None], "no request has got a server"
    relayed = service(1100, {"canary": 1200, "stable": 0}, unit="CONNECTION")
    (measured,) = called(tmp_path, "measure.js", "measureService", [relayed, then, 5, BOUNDS])
    assert [rule["share"] for rule in measured["rules"]] == [1, None, 0]


def test_numbers_as_text(tmp_path: Path) -> None:
    parts = [None, 0, 0.0001, 0.0005, 0.07, 0.098, 0.1, 0.123, 1]
    texts = [NOTHING, "0 %", "<0.1 %", "0.1 %", "7 %", "9.8 %", "10 %", "12 %", "100 %"]
    assert called(tmp_path, "format.js", "percent", *([part] for part in parts)) == texts
    for function, text in (("rate", "0"), ("perSecond", "0/s"), ("bytes", "0 B"), ("bytesPerSecond", "0 B/s")):
        assert called(tmp_path, "format.js", function, [None], [0]) == [NOTHING, text]
