"""An sdist, and the wheel made of it, install everything that the documents promise; tags are versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Run = Callable[..., str]

COMPILER = """#!/bin/sh
for word; do
    shift
    case $word in -O[23] | -g) ;; *) set -- "$@" "$word" ;; esac
done
exec cc -O0 "$@"
"""
"""A compiler that does not optimise, which takes half of the time."""


def listed() -> list[str]:
    """The files of the project: those that git knows, and new ones."""
    done = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True)
    return [name for name in filter(None, done.stdout.decode().split("\0")) if (ROOT / name).exists()]


def copy_source(folder: Path) -> Path:
    """Copy the project, without git and whatever was built, into that new folder."""
    for name in listed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def make_run(folder: Path, **more: str) -> Run:
    """Make a function that runs a command in that folder, and returns its standard output."""
    # Options of pytest's own process, such as -W error, are not for other programs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str | Path, cwd: Path = folder) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment | more, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    """An sdist, made where there is no git."""
    source = copy_source(tmp_path / "source")
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    make_run(source, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_KTCPVS="0.98.7")(sys.executable, "-c", build)
    shutil.rmtree(source)
    return tmp_path / "ktcpvs-0.98.7.tar.gz"


@pytest.fixture
def run(tmp_path: Path, sdist: Path) -> Run:
    """Run a command of an environment in which only the sdist was installed, outside of the source."""
    folder, compiler = tmp_path / "venv", tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    run = make_run(tmp_path, **({"CC": str(compiler)} if shutil.which("cc") else {}))

    # This environment's pip and setuptools build and install for the other one: installing others there, and compiling
    # all modules of the dependencies, takes most of the time that an installation takes.
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist)
    (wheel,) = tmp_path.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)

    def command(name: str, *arguments: str) -> str:
        return run(*pip, *arguments) if name == "pip" else run(folder / "bin" / name, *arguments)

    return command


@pytest.mark.packages
@pytest.mark.long
def test_everything_promised_is_there(run: Run, sdist: Path) -> None:
    """One test, since making the environment takes longer than everything else."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listed() if not name.startswith((".ci/", ".git"))} <= packed
    assert not [name for name in packed if name.endswith((".so", ".pyc"))]

    assert run("tcpvsadm", "--version") == "tcpvsadm 0.98.7\n"
    assert "ktcpvs" in run("twistd", "--help")
    assert "uvloop" in run("twistd", "--help-reactors")
    assert "--state" in run("twistd", "ktcpvs", "--help")
    assert "--control" in run("ktcpvs", "--help")
    if shutil.which("cc"):
        compiled = "from ktcpvs.http import fast_path; from ktcpvs.protocols.http1 import plain; "
        compiled += "from ktcpvs.streams import compiled; from ktcpvs.dispatch.compiled import forms; "
        compiled += "from ktcpvs.streams import tls_operations; from ktcpvs.system import tls_tickets; "
        compiled += "from ktcpvs.protocols.http2 import fast_path as frames, hpack; "
        shown = "fast_path.IS_COMPILED, plain.IS_COMPILED, compiled.IS_COMPILED, forms is not None, "
        shown += "tls_operations.IS_COMPILED, tls_tickets.IS_COMPILED, frames.IS_COMPILED, hpack.IS_COMPILED"
        assert run("python", "-c", f"{compiled}print({shown})") == " ".join(["True"] * 8) + "\n"
    files = run("pip", "show", "--files", "ktcpvs")
    for file in ("man8/tcpvsadm.8", "man8/ktcpvs.8", "man5/ktcpvs.conf.5"):
        assert file in files
    for file in ("completions/tcpvsadm", "completions/ktcpvs", "site-functions/_tcpvsadm", "site-functions/_ktcpvs"):
        assert file in files


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_version_is_that_of_the_tag(tmp_path: Path) -> None:
    """In a clone, in one without tags, in an archive of git, and where nothing is known."""
    source, archive, shallow = tmp_path / "source", tmp_path / "archive", tmp_path / "shallow"
    for folder in (source, archive, shallow):
        folder.mkdir()
    for name in ("pyproject.toml", ".git_archival.txt", ".gitattributes"):
        shutil.copy(ROOT / name, source / name)
    run = make_run(source)
    run("git", "init", "--quiet", "-b", "main")
    as_somebody = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false")

    def commit(subject: str) -> None:
        run("git", "add", "-A")
        run(*as_somebody, "commit", "--quiet", "--allow-empty", "-m", subject)

    def version(folder: Path) -> str:
        return run(sys.executable, "-m", "setuptools_scm", cwd=folder).strip()

    commit("one")
    run("git", "clone", "--quiet", "--depth", "1", "--no-tags", source.as_uri(), shallow)
    run("git", "tag", "v1.2.3")
    run("git", "archive", "-o", tmp_path / "archive.tar", "v1.2.3")
    run("tar", "xf", tmp_path / "archive.tar", "-C", archive)
    assert version(source) == "1.2.3"
    assert version(archive) == "1.2.3"
    assert version(shallow).startswith("0.1.dev")

    commit("two")
    assert version(source).startswith("1.2.4.dev1+g")
    shutil.rmtree(source / ".git")
    (source / ".git_archival.txt").unlink()
    assert version(source) == "0.1.dev0"
