"""Fixtures of tests with relays over real sockets."""

from reactors import family as family
from reactors import thread as thread
