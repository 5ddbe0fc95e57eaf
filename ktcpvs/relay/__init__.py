"""Relays carry bytes between two streams when no more decisions are needed. Each engine has its own module."""
