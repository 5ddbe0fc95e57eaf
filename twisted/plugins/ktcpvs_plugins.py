"""The plugins of ktcpvs: the twistd command, the uvloop reactor, endpoints of services, and the built-in schedulers."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.plugin import IPlugin
from zope.interface import alsoProvides

from ktcpvs.in_process.string_endpoint import ServiceParser
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.http import HHTTP, HTTP, PHTTP
from ktcpvs.schedulers.lc import LC
from ktcpvs.schedulers.p2c import P2C
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.sh import SH
from ktcpvs.schedulers.sni import SNI
from ktcpvs.schedulers.tcp import TCP
from ktcpvs.schedulers.wlc import WLC
from ktcpvs.schedulers.wrr import WRR

ktcpvs = ServiceMaker(
    "ktcpvs", "ktcpvs.tap", "The TCP Virtual Server: a layer-7 switch, administered with tcpvsadm.", "ktcpvs"
)
uvloop = Reactor("uvloop", "ktcpvs.reactor", "asyncio on uvloop, the fastest for ktcpvs.")

service_parser = ServiceParser()
alsoProvides(service_parser, IPlugin)

# The schedulers do not import Twisted; here they become plugins.
wlc, lc, rr, wrr, p2c, sh = WLC(), LC(), RR(), WRR(), P2C(), SH()
http, hhttp, phttp, chttp, sni, tcp = HTTP(), HHTTP(), PHTTP(), CHTTP(), SNI(), TCP()
for scheduler in (wlc, lc, rr, wrr, p2c, sh, http, hhttp, phttp, chttp, sni, tcp):
    alsoProvides(scheduler, IPlugin)
del scheduler  # or twisted.plugin would find the last one twice
