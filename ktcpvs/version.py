"""The version of this installation."""

try:
    from ktcpvs._version import __version__ as __version__
except ImportError:  # a source tree that was never installed
    __version__ = "0.1.dev0"
