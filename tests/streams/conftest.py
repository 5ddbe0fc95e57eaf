"""Fixtures of tests with streams over real sockets."""

from reactors import family as family
from reactors import how as how
from reactors import lines as lines
from reactors import thread as thread
