"""Relays: they carry the bytes between two streams once nothing is left to decide. Each engine has its own module."""
