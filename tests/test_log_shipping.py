"""The configurations that ship the access log: rsyslog runs with its own; the others are well-formed."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import program, wait_for

from ktcpvs.protocols.access_log import JSONFormat, Record
from ktcpvs.system.access_log_files import MAX_SYSLOG_BYTES

EXAMPLES = Path(__file__).parents[1] / "docs/examples/logs"


def line_of(service: str, target: bytes, trace: tuple[bytes, bytes] | None = None) -> bytes:
    record = Record("192.0.2.7", 1_700_000_000.5, b"GET", target, 1, b"Host: h\r\n", 200, "10.0.0.1:80", "first")
    record.trace, record.ending = trace, "answered"
    return JSONFormat(service, "phttp").line(record)


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A running rsyslog whose paths are below a folder, and a socket that is connected to it."""
    text = (EXAMPLES / "rsyslog.conf").read_text()
    text = text.replace("/run/ktcpvs", str(tmp_path)).replace("/var/log/ktcpvs", str(tmp_path))
    configuration = tmp_path / "rsyslog.conf"
    configuration.write_text(f'global(workDirectory="{tmp_path}")\n{text}')
    daemon = program("rsyslogd")
    checked = subprocess.run([daemon, "-N1", "-f", str(configuration)], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    with (
        subprocess.Popen([daemon, "-n", "-i", str(tmp_path / "pid"), "-f", str(configuration)]) as process,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
    ):
        try:
            wait_for((tmp_path / "log.sock").exists, "the socket of rsyslog")
            syslog.connect(str(tmp_path / "log.sock"))
            yield tmp_path, syslog
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_rsyslog_writes_a_file_for_each_service(rsyslog: tuple[Path, socket.socket]) -> None:
    folder, syslog = rsyslog
    lines = [line_of("web", b"/a b\xff"), line_of("../shop", b"/", (b"ab" * 16, b"cd" * 8))]
    for line in (*lines, line_of("web", b"/" + b"x" * MAX_SYSLOG_BYTES)):
        syslog.send((b"<134>ktcpvs[7]: " + line[:-1])[:MAX_SYSLOG_BYTES])
    files = {name: folder / name for name in ("web.json", ".._shop.json", "cut.log")}
    wait_for(
        lambda: all(path.exists() and path.read_bytes().endswith(b"\n") for path in files.values()),
        lambda: f"{list(files)} among {sorted(path.name for path in folder.iterdir())}",
    )
    for line, name in zip(lines, ("web.json", ".._shop.json"), strict=True):
        assert json.loads(files[name].read_text()) == json.loads(line)
    assert files["cut.log"].read_text().count("\n") == 1


KEYS = set(json.loads(line_of("web", b"/", (b"ab" * 16, b"cd" * 8))))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif value is not None:
        yield str(value)


def test_the_configurations_in_yaml_name_fields_that_lines_have() -> None:
    loaded = {path.name: yaml.safe_load(path.read_text()) for path in EXAMPLES.glob("*.yaml")}
    assert set(loaded) == {"vector.yaml", "fluent-bit.yaml", "promtail.yaml"}
    (stage,) = (one["json"] for one in loaded["promtail.yaml"]["scrape_configs"][0]["pipeline_stages"] if "json" in one)
    assert set(stage["expressions"].values()) <= KEYS
    used = re.findall(r"{{ (\w+) }}", "\n".join(strings(loaded["vector.yaml"]["sinks"])))
    assert used
    assert set(used) - {"class"} <= KEYS
    output = loaded["fluent-bit.yaml"]["pipeline"]["outputs"][0]
    assert set(re.findall(r"\$(\w+)", output["labels"] + output["structured_metadata"])) == {"service", "trace_id"}


def test_all_paths_are_those_of_the_document() -> None:
    for path in EXAMPLES.iterdir():
        assert "/var/log/ktcpvs" in path.read_text(), path
