"""Decisions about one client connection: admission, selection of a server, the queue, the access log."""
