"""Decisions about one client connection: admission, which server, waiting for room, what the access log says."""
