"""Twisted: how connections live. The way of the bytes, and the files along it:

client bytes -> listener (accept, limits) -> connection (what is wanted? head, choice) -> backend (connect, next
choice) -> relay (both directions, to the end) -> connection (count out, one line in the log)

`director` carries edits out; `live` is one running service.
"""
