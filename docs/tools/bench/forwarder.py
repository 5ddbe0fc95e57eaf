"""Twisted's port forwarder on its epoll reactor: `forwarder.py PORT HOST PORT`. A program of its own."""

import sys

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import reactor  # noqa: E402 - it is chosen above
from twisted.protocols.portforward import ProxyFactory  # noqa: E402

port, host, to = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
factory = ProxyFactory(host, to)
factory.noisy = False
reactor.listenTCP(port, factory, interface="127.0.0.1")  # type: ignore[arg-type]
reactor.run()
