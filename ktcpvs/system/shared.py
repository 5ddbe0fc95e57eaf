"""Counts that several processes share: a table in memory, in which each process writes its own column alone.

Rows are what is counted, columns are processes; behind them is the table of clients. The supervisor makes the table and
says which row is whose; a worker gets its descriptor. Reading all of a row is a sum over a few numbers, without a lock:
each of them has one writer."""

from __future__ import annotations

import mmap
import os

from ktcpvs.model.clients import ClientTable

WIDTH = 4
"""Bytes of a count."""

ROWS_MAX = 1 << 16
"""How many things can be counted; memory is taken only for rows that are used."""


class SharedTable:
    """columns: how many processes count, at most."""

    def __init__(self, columns: int, descriptor: int | None = None) -> None:
        """descriptor: of a table that was made with as many columns; None makes one, all 0."""
        self.columns = columns
        counts = ROWS_MAX * columns * WIDTH
        size = counts + ClientTable.size(columns)
        if descriptor is None:
            descriptor = os.memfd_create("ktcpvs counts", os.MFD_CLOEXEC)
            os.truncate(descriptor, size)
        self.descriptor = descriptor
        memory = memoryview(mmap.mmap(descriptor, size))
        self._numbers = memory[:counts].cast("i")
        self._clients = memory[counts:]

    def row(self, number: int) -> memoryview:
        """That row: one number for each column."""
        return self._numbers[number * self.columns : (number + 1) * self.columns]

    def clear_column(self, column: int, rows: int) -> None:
        """The process of that column is gone: in the first `rows` rows it counts nothing any more."""
        for number in range(rows):
            self._numbers[number * self.columns + column] = 0
        self.clients(column, b"").clear_column(column)

    def clients(self, column: int, key: bytes) -> ClientTable:
        """What each client address takes, for the process of that column. key: of its hash."""
        return ClientTable(self._clients, self.columns, column, key)
