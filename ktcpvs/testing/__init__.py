"""Tests of schedulers: the contract, simulations in virtual time, and a real switch. docs/simulations.md shows
how to use them."""

from ktcpvs.simulation.arrivals import Arrival, poisson, steady
from ktcpvs.simulation.behaviour import (
    REFUSED,
    Behaviour,
    Outcome,
    constant,
    failing,
    flapping,
    lognormal,
    refusing,
    slow,
)
from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.moves import Moves
from ktcpvs.simulation.simulation import FakeServer, Report, ServerReport, Simulation, with_weight, without_server
from ktcpvs.simulation.virtual_time import VirtualTime
from ktcpvs.testing.contract import ContractBroken, check_scheduler, contract_failures
from ktcpvs.testing.running_switch import NotStarted, RunningSwitch, SwitchResponse
from ktcpvs.testing.views import service_of

__all__ = [
    "REFUSED",
    "Arrival",
    "Behaviour",
    "ContractBroken",
    "Durations",
    "FakeServer",
    "Moves",
    "NotStarted",
    "Outcome",
    "Report",
    "RunningSwitch",
    "ServerReport",
    "Simulation",
    "SwitchResponse",
    "VirtualTime",
    "check_scheduler",
    "constant",
    "contract_failures",
    "failing",
    "flapping",
    "lognormal",
    "poisson",
    "refusing",
    "service_of",
    "slow",
    "steady",
    "with_weight",
    "without_server",
]
