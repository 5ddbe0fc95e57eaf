"""The plugins of ktcpvs: the twistd command, the uvloop reactor, endpoints of services, and the built-in schedulers."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.plugin import IPlugin
from zope.interface import alsoProvides

from ktcpvs.in_process.string_endpoint import ServiceParser
from ktcpvs.schedulers.chash import CHash
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.first import First
from ktcpvs.schedulers.fo import FO, OVF
from ktcpvs.schedulers.http import HHTTP, HTTP, PHTTP
from ktcpvs.schedulers.maglev import Maglev
from ktcpvs.schedulers.p2c import P2C
from ktcpvs.schedulers.peak_ewma import PeakEWMA
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.sed import NQ, SED
from ktcpvs.schedulers.sh import SH
from ktcpvs.schedulers.sni import SNI
from ktcpvs.schedulers.tcp import TCP
from ktcpvs.schedulers.wlc import LC, WLC
from ktcpvs.schedulers.wrr import WRR

ktcpvs = ServiceMaker(
    "ktcpvs", "ktcpvs.tap", "The TCP Virtual Server: a layer-7 switch, administered with tcpvsadm.", "ktcpvs"
)
uvloop = Reactor("uvloop", "ktcpvs.reactor", "asyncio on uvloop, the fastest for ktcpvs.")

service_parser = ServiceParser()
alsoProvides(service_parser, IPlugin)

# The schedulers do not import Twisted; here they become plugins.
wlc, lc, rr, wrr, p2c, sh = WLC(), LC(), RR(), WRR(), P2C(), SH()
sed, nq, fo, ovf, first = SED(), NQ(), FO(), OVF(), First()
maglev, chash, peak_ewma = Maglev(), CHash(), PeakEWMA()
http, hhttp, phttp, chttp, sni, tcp = HTTP(), HHTTP(), PHTTP(), CHTTP(), SNI(), TCP()
by_connection = (wlc, lc, rr, wrr, p2c, sh, sed, nq, fo, ovf, first, maglev, chash, peak_ewma)
for scheduler in (*by_connection, http, hhttp, phttp, chttp, sni, tcp):
    alsoProvides(scheduler, IPlugin)
del by_connection, scheduler  # or twisted.plugin would find the last one twice
