"""docs/tools/flame.py: reading stacks, merging small frames, and the picture."""

from __future__ import annotations

import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "docs" / "tools"
sys.path.insert(0, str(TOOLS))

import flame  # noqa: E402 - found by the line above

START = "<module> (twistd:1);run (/lib/python3.11/site-packages/twisted/run.py:9);uv_run (core.c:464)"
RECORDED = f"""\
{START};read (libc.so.6) 300
{START};0x7fc51d0a3f16 (libc.so.6);Py_DECREF (object.h:5);send (ktcpvs/http/pool.py:7);send (ktcpvs/http/pool.py:8) 690
{START};a<b (ktcpvs/x.c:3) 4
{START};c (loop.c:3) 4
_bootstrap (threading.py:1002);Thread.run (threading.py:982);PyThread_acquire_lock_timed (libpython3.11.so) 1000
"""


def folded() -> flame.Frame:
    return flame.fold(flame.read_stacks(RECORDED))


def test_stacks_are_read_without_lines_folders_and_the_start_of_the_program() -> None:
    stacks = flame.read_stacks(
        "<module> (twistd:1);run (/lib/python3.11/site-packages/twisted/run.py:9) 3\n" + RECORDED
    )
    assert next(stacks) == (("<module> (twistd)", "run (twisted/run.py)"), 3)
    assert next(stacks) == (("read (libc.so.6)",), 300)


def test_other_lines_are_no_stacks() -> None:
    assert list(flame.read_stacks("\nsampling\na;b c\n")) == []


def test_samples_of_a_waiting_thread_are_left_out() -> None:
    assert folded().samples == 998


def test_direct_recursion_is_one_frame_and_inlined_helpers_are_none() -> None:
    send = flame.Frame("send (ktcpvs/http/pool.py)", 690)
    assert folded().inner["libc.so.6"].inner == {send.name: send}


def test_small_siblings_are_merged_if_they_are_not_small_together() -> None:
    merged = flame.merged(folded(), 5)
    assert {name: one.samples for name, one in merged.inner.items()} == {
        "read (libc.so.6)": 300,
        "libc.so.6": 690,
        "(2 smaller ones)": 8,
    }
    assert set(flame.merged(folded(), 9).inner) == {"read (libc.so.6)", "libc.so.6"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("read (libc.so.6)", "system"),
        ("__libc_recv (libpthread-2.31.so)", "system"),
        ("write (loop.c)", "native"),
        ("write (ktcpvs/streams/stream.py)", "ours"),
        ("client_receives (ktcpvs/http/_fast_path.c)", "compiled"),
        ("run (twisted/run.py)", "python"),
        ("(3 smaller ones)", "native"),
    ],
)
def test_a_frame_has_the_colour_of_its_origin(name: str, kind: str) -> None:
    assert flame.kind_of(name) == kind


def test_a_label_is_as_long_as_its_frame() -> None:
    name = "send (ktcpvs/http/pool.py)"
    assert [flame.label(name, width) for width in (400, 66, 33, 20)] == [name, "send", "send", ""]
    assert flame.label("client_receives (x.c)", 66) == "client_…"


def test_the_picture_needs_no_script_and_each_frame_lies_on_its_caller() -> None:
    svg = flame.picture("X <before>", folded())
    assert "<script" not in svg
    assert "prefers-color-scheme: dark" in svg
    assert "read (libc.so.6): 30.1%" in svg
    boxes = {}
    for group in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        box = group[1].attrib
        boxes[str(group[0].text).partition(" ")[0]] = {key: float(box[key]) for key in ("x", "y", "width", "height")}
    caller = boxes.pop("all:")
    assert boxes.pop("send")["y"] == caller["y"] - 2 * flame.ROW
    assert set(boxes) == {"read", "libc.so.6:", "a<b", "c"}
    for box in boxes.values():
        assert box["y"] + box["height"] == caller["y"]
        assert caller["x"] - 0.1 <= box["x"]
        assert box["x"] + box["width"] <= caller["x"] + caller["width"] + 0.2


def test_the_legend_has_the_share_of_the_samples_that_end_in_each_kind() -> None:
    shares = flame.shares(flame.merged(folded(), 5))
    assert {kind: round(share * 998) for kind, share in shares.items()} == {
        "ours": 690,
        "compiled": 0,
        "python": 0,
        "system": 300,
        "native": 8,
    }
    assert "ktcpvs 69%" in flame.picture("X", folded())


def test_a_picture_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        flame.picture("X", flame.fold([]))


def test_a_missing_recorder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flame.shutil, "which", lambda name, path: None)
    with pytest.raises(flame.Failure, match=r"py-spy is missing: .* -m pip install py-spy"):
        flame.recorder()
