"""A table of counts in memory that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys

from ktcpvs.system.shared import MAX_ROWS, SharedTable


def test_it_begins_with_zeros_and_each_row_is_its_own() -> None:
    table = SharedTable(3)
    assert table.row(0).tolist() == table.row(MAX_ROWS - 1).tolist() == [0, 0, 0]
    table.row(1)[0] = 5
    table.row(1)[2] = -1
    assert [table.row(number).tolist() for number in range(3)] == [[0, 0, 0], [5, 0, -1], [0, 0, 0]]


def test_a_column_is_cleared_and_no_other() -> None:
    table = SharedTable(2)
    for number in range(4):
        table.row(number)[0] = table.row(number)[1] = number
    table.clear_column(1, rows=3)
    assert [table.row(number).tolist() for number in range(4)] == [[0, 0], [1, 0], [2, 0], [3, 3]]


COUNTER = """
import sys
from ktcpvs.system.shared import SharedTable
table = SharedTable(2, int(sys.argv[1]))
row = table.row(7)
row[1] += row[0] + 1
"""


def test_another_process_has_the_same_by_its_descriptor() -> None:
    table = SharedTable(2)
    row = table.row(7)
    row[0] = 41
    command = [sys.executable, "-c", COUNTER, str(table.descriptor)]
    subprocess.run(command, check=True, pass_fds=[table.descriptor], timeout=30)
    assert row.tolist() == [41, 42]
    assert not os.get_inheritable(table.descriptor)
