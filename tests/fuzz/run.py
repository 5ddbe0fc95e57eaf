"""Coverage-guided fuzzing with atheris (libFuzzer): each target for a while, one after another. `make fuzz` starts it.

    python tests/fuzz/run.py [--seconds N] [TARGET ...]
    python tests/fuzz/run.py TARGET FILE       the input in FILE once, for a debugger

The corpus stays in the folder .fuzz, so that the next run continues from there; failing inputs are in .fuzz/finds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

LEARNED = ROOT / ".fuzz"
FINDS = LEARNED / "finds"

LONGEST = 4096
"""The longest generated input, in bytes."""

SLOW = 10
"""Seconds; an input that takes longer is reported."""

MEMORY = 2048
"""MiB; an input that takes more is reported."""


def main() -> int:
    """Fuzz the named targets, or all. The exit status is 1 when something was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the switch, coverage-guided.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 60 when left out")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when left out")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options, libfuzzer = parser.parse_known_args()
    if options.here:
        return _fuzz_here(options.targets[0], [*options.targets[1:], *libfuzzer])
    from tests.fuzz.targets import TARGETS

    if len(options.targets) == 2 and Path(options.targets[1]).is_file():
        TARGETS[options.targets[0]](Path(options.targets[1]).read_bytes())
        return 0
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown or libfuzzer:
        parser.error(f"no such target: {', '.join((*unknown, *libfuzzer))}; there are: {', '.join(TARGETS)}")
    found = [_fuzzed(name, options.seconds) for name in options.targets or TARGETS]
    return 1 if any(found) else 0


def _fuzzed(name: str, seconds: int) -> bool:
    """Fuzz one target in a new process, since libFuzzer ends the process. True when something was found."""
    from tests.fuzz.targets import seeds, words

    learned, log = LEARNED / name, LEARNED / f"{name}.log"
    for folder in (learned, FINDS):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(FINDS.iterdir())
    with tempfile.TemporaryDirectory() as temporary, log.open("wb") as written:
        beginning, dictionary = Path(temporary, "seeds"), Path(temporary, "words")
        beginning.mkdir()
        for number, seed in enumerate(seeds(name)):
            (beginning / str(number)).write_bytes(seed)
        dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words(name)))
        limits = (f"-max_total_time={seconds}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}")
        command = [sys.executable, __file__, "--here", name, str(learned), str(beginning), f"-dict={dictionary}"]
        ended = subprocess.run(
            [*command, *limits, f"-artifact_prefix={FINDS}/{name}-", "-print_final_stats=1"],
            stdout=written, stderr=written, cwd=temporary, check=False,
        )  # fmt: skip
    said = log.read_text("utf-8", "replace")
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    coverage = re.findall(r" cov: (\d+)", said)
    finds = sorted(set(FINDS.iterdir()) - before)
    print(f"{name:14} {runs[1] if runs else '?':>9} runs, coverage {coverage[-1] if coverage else '?'}", flush=True)
    for find in finds:
        print(f"  found: {find}\n  again: {sys.executable} tests/fuzz/run.py {name} {find}")
    if ended.returncode:
        print(f"  it said: {log}")
    return bool(finds or ended.returncode)


def _escaped(word: bytes) -> str:
    return "".join(chr(code) if chr(code).isalnum() and code < 128 else f"\\x{code:02x}" for code in word)


def _fuzz_here(name: str, arguments: list[str]) -> int:
    """In this process, with everything of the switch instrumented."""
    import atheris

    with atheris.instrument_imports(include=["ktcpvs"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
