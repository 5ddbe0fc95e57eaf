"""Replays an access log through a scheduler in virtual time, and compares the outcome with what happened."""
