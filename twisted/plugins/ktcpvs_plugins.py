"""What ktcpvs offers to twistd: the command, the uvloop reactor, and its schedulers."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.plugin import IPlugin
from zope.interface import alsoProvides

from ktcpvs.schedulers.http import HTTP
from ktcpvs.schedulers.wlc import WLC

ktcpvs = ServiceMaker(
    "ktcpvs", "ktcpvs.tap", "The TCP Virtual Server: a layer-7 switch, administered with tcpvsadm.", "ktcpvs"
)
uvloop = Reactor("uvloop", "ktcpvs.reactor", "asyncio on uvloop, the fastest for ktcpvs.")

# The schedulers themselves know nothing of Twisted; here they become plugins.
wlc = WLC()
http = HTTP()
alsoProvides(wlc, IPlugin)
alsoProvides(http, IPlugin)
