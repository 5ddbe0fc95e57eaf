"""Long tests of the relays: `make soak-relays`.

storm: 20,000 connections of random sizes, pieces, pauses and ends through each relay, compared by SHA-256 and counted
to the byte. kills: a minute in which clients and servers reset, leave, stop reading and are killed; then nothing may be
left open. bulk: 500 long transfers through each relay, both ways at once, while TCP repeats packets. slow: clients that
read nothing for a minute, and what is held for them meanwhile. packets: packets of 1 byte to 64 KiB to servers that
read nothing, over one connection and over 1,000, and what the kernel holds for them.

Exits with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bulk import bulk  # noqa: E402
from e2e.harness import ControlThread, Daemon  # noqa: E402
from kills import kills  # noqa: E402
from packets import packets  # noqa: E402
from servers import free_port  # noqa: E402
from slow import slow  # noqa: E402
from storm import Storm  # noqa: E402
from world import print_outcome  # noqa: E402

RELAYS = ("copy", "splice", "kernel", "auto")


@contextmanager
def running(**options: object) -> Iterator[Daemon]:
    """A running daemon; in the end its log must have no fault."""
    thread = ControlThread()
    try:
        with tempfile.TemporaryDirectory(prefix="ktcpvs-soak-") as folder:
            daemon = Daemon(thread, Path(folder), **options)  # type: ignore[arg-type]
            daemon.start()
            try:
                yield daemon
            finally:
                daemon.finish()
    finally:
        thread.stop()


def storm(count: int, seed: int) -> list[str]:
    """Run `count` connections through each relay, and as many that an engine takes over later."""
    wrong: list[str] = []
    runs = [(relay, 0, 150, 0.0) for relay in RELAYS] + [("auto", 1, 600, 2.5)]
    for relay, after, at_once, lives in runs:
        name = f"storm, relay = {relay}, relay_after = {after}"
        with running() as daemon:
            port, serve_at = free_port(), free_port()
            daemon.set(relay_after=after, relay_rate=0)
            daemon.service("s", port, f"127.0.0.1:{serve_at}", relay=relay)
            began = time.monotonic()

            def told(done: int, name: str = name, began: float = began) -> None:
                if done % 1000 == 0:
                    print(f"\r{name}: {done:,} of {count:,}, {time.monotonic() - began:.0f} s ", end="", flush=True)

            many = Storm(port, serve_at, count, seed, at_once, lives, told)
            many.run()
            daemon.wait_until_empty()
            stats = daemon.stats("s")["stats"]
        counted = stats["total"], stats["bytes_in"], stats["bytes_out"]
        if counted != (count, many.bytes_in, many.bytes_out):
            many.failures.append(f"counted {counted}, said ({count}, {many.bytes_in}, {many.bytes_out})")
        joined = ", ".join(f"{kind} {number:,}" for kind, number in stats["relay"]["joined"].items() if number)
        seconds = time.monotonic() - began
        moved = (many.bytes_in + many.bytes_out) / 1e6
        print(f"\r{name}: {many.done:,} connections, {moved:,.0f} MB, {seconds:.0f} s; carried by {joined}")
        wrong += [f"{name}: {failure}" for failure in many.failures]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="storm,kills,bulk,slow,packets", help="some of storm,kills,bulk,slow,packets")
    parser.add_argument("--connections", type=int, default=20_000, help="through each relay [20000]")
    parser.add_argument("--transfers", type=int, default=500, help="of bulk, through each relay [500]")
    parser.add_argument("--seconds", type=int, default=60, help="how long kills and slow last [60]")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    chosen = options.only.split(",")
    print(f"seed {options.seed}")
    wrong: list[str] = []
    if "storm" in chosen:
        wrong += storm(options.connections, options.seed)
    if "kills" in chosen:
        with running() as daemon:
            wrong += kills(daemon, RELAYS, options.seconds, options.seed)
    if "bulk" in chosen:
        with running() as daemon:
            wrong += bulk(daemon, RELAYS, options.transfers, options.seed)
    if "slow" in chosen:
        with running() as daemon:
            wrong += slow(daemon, RELAYS, options.seconds)
    if "packets" in chosen:
        with running() as daemon:
            wrong += packets(daemon)
    return print_outcome(wrong)


if __name__ == "__main__":
    sys.exit(main())
