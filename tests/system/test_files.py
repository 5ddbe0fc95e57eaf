"""Files and folders that other users may have tampered with: none is followed, waited for, or trusted."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ktcpvs.errors import CannotListen
from ktcpvs.system.files import (
    private_folder,
    read_file,
    replace_file,
    untrusted_folder,
    untrusted_path,
    untrusted_socket,
)

OTHER = 65533
"""A user's number that is neither root's nor this user's."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


# Writing.


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("umask", [0, 0o777])
def test_a_file_is_replaced_and_has_its_mode(tmp_path: Path, mode: int, umask: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    before = os.umask(umask)
    try:
        replace_file(str(path), b"new", mode)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["file"]


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def _loose(path: Path) -> None:
    path.write_text("")
    path.chmod(0o666)


def _hard_link(path: Path) -> None:
    path.hardlink_to(path.with_name("victim"))


@pytest.mark.parametrize("plant", [_link, _loose, _hard_link, os.mkfifo], ids=["link", "loose", "hard link", "fifo"])
def test_what_lies_there_before_is_not_used(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant(tmp_path / "file.new")
    replace_file(str(tmp_path / "file"), b"new")
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]
    status = os.lstat(tmp_path / "file")
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (tmp_path / "file").read_bytes() == b"new"


@as_root
def test_what_another_user_put_there_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file.new").write_text("planted")
    os.chown(tmp_path / "file.new", OTHER, OTHER)
    with pytest.raises(FileExistsError, match=rf"file\.new belongs to user {OTHER}: remove it"):
        replace_file(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file.new").read_text() == "planted"


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.new").mkdir()
    with pytest.raises(FileExistsError, match=r"file\.new is a folder: remove it"):
        replace_file(str(tmp_path / "file"), b"new")


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_text("")
    with pytest.raises(OSError, match="Is a directory"):
        replace_file(str(tmp_path / "file"), b"new")
    assert os.listdir(tmp_path) == ["file"]


# Reading.


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_file(str(tmp_path / "file")) == read_file(str(tmp_path / "link")) == b"text"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(str(path))
    for may_wait in (False, True):
        with pytest.raises(IsADirectoryError):
            read_file(str(tmp_path), may_wait)
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "none"))


def test_a_pipe_is_read_where_waiting_does_no_harm() -> None:
    reads, writes = os.pipe()
    with open(writes, "wb") as file:
        file.write(b"text")
    with open(reads, "rb"):
        assert read_file(f"/proc/self/fd/{reads}", may_wait=True) == b"text"


# Folders and sockets.


def test_a_private_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    private_folder(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    private_folder(str(folder))
    for mode in (0o777, 0o720, 0o702):
        folder.chmod(mode)
        with pytest.raises(CannotListen, match=f"{folder} is writable by other users: others could replace"):
            private_folder(str(folder))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(CannotListen, match="cannot create the folder"):
        private_folder(str(file / "run"))


@as_root
def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    folder, link = tmp_path / "run", tmp_path / "link"
    folder.mkdir(0o700)
    os.chown(folder, OTHER, OTHER)
    assert untrusted_folder(str(folder)) == f"{folder} belongs to user {OTHER}"
    assert untrusted_folder(str(folder), OTHER) is None
    with pytest.raises(CannotListen, match=f"{folder} belongs to user {OTHER}"):
        private_folder(str(folder))
    os.chown(folder, 0, 0)
    link.symlink_to("run")
    assert untrusted_folder(str(link)) is None
    os.chown(link, OTHER, OTHER, follow_symlinks=False)
    assert untrusted_folder(str(link)) == f"{link} belongs to user {OTHER}"


def test_a_path_is_trusted_where_no_other_user_can_change_anything_on_the_way(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "folder" / "file", tmp_path / "link"
    folder.mkdir(mode=0o755)
    file.write_text("")
    file.chmod(0o755)
    link.symlink_to("./folder/../folder/file")
    assert untrusted_path(str(file)) is None
    assert untrusted_path(str(link)) is None
    folder.chmod(0o777)
    for path in (file, link):
        assert untrusted_path(str(path)) == f"{folder} may be written by other users; chmod go-w {folder}"
    folder.chmod(0o1777)  # as /tmp: others cannot replace the file
    assert untrusted_path(str(link)) is None
    assert untrusted_path(str(folder)) is not None  # but they can add files
    file.chmod(0o775)
    assert untrusted_path(str(link)) == f"{file} may be written by other users; chmod go-w {file}"
    with pytest.raises(FileNotFoundError):
        untrusted_path(str(folder / "none"))
    (folder / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        untrusted_path(str(folder / "loop"))


@as_root
def test_a_path_through_a_folder_or_a_link_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "folder" / "file", tmp_path / "link"
    folder.mkdir(mode=0o755)
    file.write_text("")
    link.symlink_to(str(file))
    for path, owner in ((link, link), (link, folder), (file, folder), (link, file), (file, file)):
        os.chown(owner, OTHER, OTHER, follow_symlinks=False)
        assert untrusted_path(str(path)) == f"{owner} belongs to user {OTHER}; expected root or user 0"
        os.chown(owner, 0, 0, follow_symlinks=False)
    assert untrusted_path(str(link)) is None


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_a_socket_of_our_own_is_trusted(tmp_path: Path) -> None:
    place = tmp_path / "run" / "control.sock"
    assert untrusted_socket(str(place)) is None, "there is none"
    place.parent.mkdir(0o700)
    assert untrusted_socket(str(place)) is None, "there is none"
    with listening(place):
        assert untrusted_socket(str(place)) is None
        tmp_path.chmod(0o1777)
        assert untrusted_socket(str(place)) is None
        place.parent.chmod(0o777)
        assert untrusted_socket(str(place)) == f"{place.parent} is writable by other users"


@as_root
def test_a_socket_in_a_folder_that_another_user_could_make_is_not_trusted(tmp_path: Path) -> None:
    place = tmp_path / "run" / "control.sock"
    place.parent.mkdir(0o700)
    os.chown(place.parent, OTHER, OTHER)
    with listening(place):
        os.chown(place, OTHER, OTHER)
        assert untrusted_socket(str(place)) is None, "root has given it to that user: nobody else can write above"
        tmp_path.chmod(0o1777)
        assert untrusted_socket(str(place)) == f"{place.parent} belongs to user {OTHER}"
        os.chown(place.parent, 0, 0)
        assert untrusted_socket(str(place)) is None, "root alone can have put it there, as systemd does"
