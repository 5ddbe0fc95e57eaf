"""What ktcpvs offers to twistd: the command, the uvloop reactor, and its schedulers."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.plugin import IPlugin
from zope.interface import alsoProvides

from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.hhttp import HHTTP
from ktcpvs.schedulers.http import HTTP
from ktcpvs.schedulers.lc import LC
from ktcpvs.schedulers.p2c import P2C
from ktcpvs.schedulers.phttp import PHTTP
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.sh import SH
from ktcpvs.schedulers.wlc import WLC
from ktcpvs.schedulers.wrr import WRR

ktcpvs = ServiceMaker(
    "ktcpvs", "ktcpvs.tap", "The TCP Virtual Server: a layer-7 switch, administered with tcpvsadm.", "ktcpvs"
)
uvloop = Reactor("uvloop", "ktcpvs.reactor", "asyncio on uvloop, the fastest for ktcpvs.")

# The schedulers themselves know nothing of Twisted; here they become plugins.
wlc, lc, rr, wrr, p2c, sh = WLC(), LC(), RR(), WRR(), P2C(), SH()
http, hhttp, phttp, chttp = HTTP(), HHTTP(), PHTTP(), CHTTP()
for scheduler in (wlc, lc, rr, wrr, p2c, sh, http, hhttp, phttp, chttp):
    alsoProvides(scheduler, IPlugin)
del scheduler  # else twisted.plugin would find the last one twice
