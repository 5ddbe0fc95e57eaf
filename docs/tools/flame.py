"""flame.py X [--tree DIR] OUT.svg: a flame graph of the daemon while it serves the load of a scenario of the benchmark.

py-spy (`pip install py-spy`, or in PATH) samples the stacks of the daemon, Python and C, for some seconds under the
load of wrk. A frame's width is its share of the samples; what it calls stands on it. Frames with less than 0.5 % are
merged: siblings into one frame, if they have so much together. The picture needs no JavaScript, and hovering shows a
frame's whole name and its share. --tree: a checkout that is not installed, which runs in this one's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from attrs import Factory, define, evolve
from bench import answers, browsers, machine, peers
from bench.configurations import CLIENTS, Site
from bench.failure import Failure
from bench.load import command, read
from bench.processes import output_of, running
from bench.run import checkout
from bench.scenario_requests import ANYBODY, PATH, WANTED, no_rules, three_rules
from bench.workshop import Servers, Workshop, raise_descriptor_limit, servers

SCENARIOS = {"A": "phttp", "E": "phttp", "X": "phttp", "Y": "phttp", "U": "wlc", "V": "http"}
"""Letter -> scheduler."""

CLOSING = "EUV"
"""Scenarios in which each request has a connection of its own."""

WARM_UP = 1
"""Seconds of load before the recording."""

MIN_SHARE = 0.005
"""Of all samples: a smaller frame is merged with its siblings."""

STARTS = ("uv_run (", "Thread.run (")
"""Frames in which a thread does its work. They and their callers start the program and are left out."""

WAITS = ("PyThread_acquire_lock_timed (", "take_gil (", "pthread_cond_timedwait (")
"""Frames of a thread that waits for another. Their samples are left out, since they use no CPU time."""

WIDTH, ROW, TOP, FOOT = 1200, 17, 46, 30
"""Pixels: all of it, the height of a frame, the line of the title, the legend."""

CHARACTER = 6.7
"""Pixels: the mean width of a letter."""

KINDS = {
    "ours": "ktcpvs",
    "compiled": "ktcpvs, compiled",
    "python": "other Python",
    "system": "system calls",
    "native": "libraries",
}
"""Class of a frame -> what the legend says."""

STYLE = """\
text { font: 11px ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; fill: #1f2328; }
.title { font: 600 15px system-ui, sans-serif; }
.quiet { font: 12px system-ui, sans-serif; fill: #59636e; }
rect { stroke: #ffffff; stroke-width: 0.6; }
.ours { fill: #79b3f7; } .compiled { fill: #b9a7f0; }
.python { fill: #8fd3b6; } .system { fill: #f4b183; } .native { fill: #d0d7de; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .quiet { fill: #9198a1; } rect { stroke: #0d1117; }
  .ours { fill: #1f5fb8; } .compiled { fill: #6a50b8; }
  .python { fill: #1f7a56; } .system { fill: #9a5417; } .native { fill: #4a525c; }
}"""

SYSTEM_CALLS = re.compile(
    r"(__)?(libc_)?(send|sendmsg|sendto|recv|recvfrom|recvmsg|read|readv|write|writev|accept4?|connect|socket|close|"
    r"shutdown|setsockopt|getsockopt|getsockname|getpeername|epoll_\w+|splice|pipe2?|ioctl|fcntl(64)?)(64|_nocancel)?"
)

LIBRARIES = ("libc", "libpthread")
"""The beginning of the name of a library with functions for system calls."""

INLINED = re.compile(r"_?Py_X?(DECREF|INCREF|NewRef|SETREF)\b.*")
"""Inline functions to which a compiler's line table attributes calls that they do not make."""

Stack = tuple[str, ...]


@define
class Frame:
    """A function in its callers. samples: in which it is. inner: what it calls, by name."""

    name: str
    samples: int = 0
    inner: dict[str, Frame] = Factory(dict)


# Stacks.


def shortened(name: str) -> str:
    """A frame's name without the folders of the installation and without the line."""
    name = re.sub(r"\((?:\S*/)?(?:site-packages|python3\.\d+)/", "(", name)
    name = re.sub(r":\d+\)$", ")", name)
    return re.sub(r"^0x[0-9a-f]+ \((.+)\)$", r"\1", name)


def read_stacks(text: str) -> Iterator[tuple[Stack, int]]:
    """Stacks as py-spy writes them: frames from the outermost on, between semicolons, and the number of samples. The
    start of a thread and stacks that wait for another thread are left out."""
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        if not frames or not count.isdecimal():
            continue
        stack = tuple(map(shortened, frames.split(";")))
        if not any(name.startswith(WAITS) for name in stack):
            yield without_start(stack), int(count)


def without_start(stack: Stack) -> Stack:
    """The stack from the first frame above the first of `STARTS` on; all of it without such a frame."""
    for place, name in enumerate(stack):
        if name.startswith(STARTS):
            return stack[place + 1 :]
    return stack


def fold(stacks: Iterable[tuple[Stack, int]]) -> Frame:
    """One tree of all stacks. A function that calls itself directly is one frame."""
    root = Frame("all")
    for stack, count in stacks:
        root.samples += count
        frame = root
        for name in stack:
            if name != frame.name and not INLINED.match(name):
                frame = frame.inner.setdefault(name, Frame(name))
                frame.samples += count
    return root


def merged(frame: Frame, least: float) -> Frame:
    """The tree without frames of fewer than `least` samples. Siblings that have so many together are one frame."""
    kept = {name: merged(one, least) for name, one in frame.inner.items() if one.samples >= least}
    small = [one for one in frame.inner.values() if one.samples < least]
    together = sum(one.samples for one in small)
    if small and together >= least:
        name = f"({len(small)} smaller ones)"
        kept[name] = Frame(name, together)
    return evolve(frame, inner=kept)


# The picture.


def kind_of(name: str) -> str:
    """The class of a frame: a key of `KINDS`."""
    function, _, file = name.partition(" (")
    file = file.removesuffix(")")
    if file.startswith(LIBRARIES) and SYSTEM_CALLS.fullmatch(function):
        return "system"
    is_python = file.endswith(".py")
    if file.startswith("ktcpvs/"):
        return "ours" if is_python else "compiled"
    return "python" if is_python else "native"


def label(name: str, width: float) -> str:
    """So much of a name as there is room for: the whole of it, the function alone, its beginning, or nothing."""
    room = int((width - 6) / CHARACTER)
    for text in (name, name.partition(" (")[0]):
        if len(text) <= room:
            return text
    return f"{text[: room - 1]}…" if room >= 4 else ""


def depth_of(frame: Frame) -> int:
    return 1 + max(map(depth_of, frame.inner.values()), default=0)


def drawn(frame: Frame, x: float, y: float, scale: float, total: int) -> Iterator[str]:
    """A frame and those on it. y: of its upper edge. scale: pixels for a sample."""
    width = frame.samples * scale
    tip = escape(f"{frame.name}: {frame.samples / total:.1%}")
    yield (
        f'<g><title>{tip}</title><rect class="{kind_of(frame.name)}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" '
        f'height="{ROW}"/>'
    )
    if text := label(frame.name, width):
        yield f'<text x="{x + 3:.1f}" y="{y + 12.5:.1f}">{escape(text)}</text>'
    yield "</g>"
    for inner in sorted(frame.inner.values(), key=lambda one: one.name):
        yield from drawn(inner, x, y - ROW, scale, total)
        x += inner.samples * scale


def shares(root: Frame) -> dict[str, float]:
    """Kind -> the share of the samples that end in a frame of that kind. A merged frame counts as its caller's kind."""
    found = dict.fromkeys(KINDS, 0.0)

    def add(frame: Frame, kind: str) -> None:
        own = frame.samples - sum(one.samples for one in frame.inner.values())
        found[kind] += own / root.samples
        for one in frame.inner.values():
            add(one, kind if one.name.startswith("(") else kind_of(one.name))

    add(root, kind_of(root.name))
    return found


def picture(title: str, root: Frame) -> str:
    """The flame graph as SVG. Raises ValueError when there are no samples."""
    if not root.samples:
        raise ValueError("there are no samples")
    height = TOP + depth_of(root) * ROW + FOOT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}\n</style>",
        f'<text class="title" x="10" y="20">{escape(title)}</text>',
        f'<text class="quiet" x="10" y="37">{root.samples:,} samples</text>',
        *drawn(root, 10, height - FOOT - ROW, (WIDTH - 20) / root.samples, root.samples),
    ]
    x = 10.0
    for kind, share in shares(root).items():
        what = f"{KINDS[kind]} {share:.0%}"
        lines.append(f'<rect class="{kind}" x="{x:.0f}" y="{height - 20}" width="12" height="12"/>')
        lines.append(f'<text class="quiet" x="{x + 17:.0f}" y="{height - 10}">{what}</text>')
        x += 40 + 7 * len(what)
    return "\n".join([*lines, "</svg>", ""])


# Recording.


def recorder() -> str:
    """The path of py-spy. Raises Failure, which says how to install it."""
    found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise Failure(f"py-spy is missing: {sys.executable} -m pip install py-spy")
    return found


def site_of(letter: str, behind: Servers, folder: Path) -> Site:
    if letter == "U":
        return no_rules(behind)
    site = three_rules(behind)
    return evolve(site, forwards=True, log="combined", log_file=f"{folder}/access.log") if letter == "Y" else site


def record(shop: Workshop, letter: str, tree: Path | None, rate: int) -> list[tuple[Stack, int]]:
    """Stacks of the daemon, and samples of each, for the workshop's seconds. rate: samples per second."""
    script = ""
    if letter != "A":
        made = browsers.make_requests(close=letter in CLOSING)
        script = browsers.write_script(shop.folder, letter.lower(), made)
    stacks = shop.folder / "stacks"
    with servers(shop) as behind, contextlib.ExitStack() as stack:
        start = peers.ours(shop, SCENARIOS[letter], tree=tree)
        peer = peers.start_all(stack, [start], site_of(letter, behind, shop.folder))[0]
        answers.check(peer.name, peer.port, ANYBODY if letter == "U" else {PATH: WANTED[PATH]}, one_server=True)
        words = command(peer.port, PATH, shop.seconds + WARM_UP + 3, clients=CLIENTS, script=script)
        words[1:1] = ["--timeout", "30s"]  # py-spy stops the daemon for each sample, so responses are late
        with running(words, shop.load, shop.folder / "wrk.log") as load:
            spy = [recorder(), "record", "--native", "--function", "--format", "raw", "--rate", str(rate)]
            spy += ["--duration", str(shop.seconds), "--output", str(stacks), "--pid", str(peer.running.pid)]
            time.sleep(WARM_UP)
            output_of(spy, shop.load, shop.seconds + 60)
            load.process.wait(60)
            read(load.said())
    return list(read_stacks(stacks.read_text(errors="replace")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", type=str.upper, choices=SCENARIOS)
    parser.add_argument("output", type=Path, metavar="OUT.svg")
    parser.add_argument("--tree", type=checkout, help="another checkout of ktcpvs")
    parser.add_argument("--title", default="", help="over the picture")
    parser.add_argument("--seconds", type=int, default=10, help="how long (default: 10)")
    parser.add_argument("--rate", type=int, default=200, help="samples per second (default: 200)")
    options = parser.parse_args()
    try:
        proxy, load = machine.cores()
        raise_descriptor_limit()
        with tempfile.TemporaryDirectory(prefix="ktcpvs-flame-") as name:
            os.chmod(name, 0o755)  # an nginx of root has workers of another user
            shop = Workshop(Path(name), {proxy}, load, 1, options.seconds, quick=True)
            stacks = record(shop, options.scenario, options.tree, options.rate)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    root = fold(stacks)
    title = options.title or f"Scenario {options.scenario}, {SCENARIOS[options.scenario]}"
    options.output.write_text(picture(title, merged(root, MIN_SHARE * root.samples)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
