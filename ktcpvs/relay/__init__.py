"""Relays: what carries the bytes between two streams once nothing is left to decide. One engine a file."""
