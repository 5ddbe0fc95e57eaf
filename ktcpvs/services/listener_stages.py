"""The stages of the preamble at each listener of a service: the PROXY protocol, then TLS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktcpvs.interfaces import CONNECTION, EACH_REQUEST
from ktcpvs.model.filter import Filter
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.network import Networks
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.services.tls_challenges import TLSChallenges
from ktcpvs.services.tls_profiles import TLSProfiles
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Stage
from ktcpvs.streams.proxy_stage import NoHeaderStage, ProxyStage
from ktcpvs.streams.tls_buffers import buffers_of
from ktcpvs.streams.tls_stage import TLSStage
from ktcpvs.system.sockets import packed_address


class ListenerStages:
    """Makes the stages of all listeners of one process, as `Director` asks for them. profiles: those of its TLS."""

    def __init__(self, context: Context, profiles: TLSProfiles) -> None:
        self._context = context
        self.profiles = profiles
        self._challenges = TLSChallenges(context)

    def __call__(self, config: VirtualService, listener: ListenAddress, unit: str) -> Sequence[Stage]:
        """The stages of one listener. unit: of the service's scheduler. Raises NoTLS."""
        stages: list[Stage] = []
        if config.proxy_from:
            is_proxy = _in_networks(config.proxy_from)
            if listener.is_tls or unit != CONNECTION:  # such a client waits for its server before anything is read
                stages.append(NoHeaderStage(is_proxy, self._first_bytes_timeout(config, listener, unit)))
            stages.append(ProxyStage(is_proxy, lambda: self._context.settings.proxy_timeout))
        if listener.is_tls:
            choice = self.profiles.choice(config, unit)
            buffers = buffers_of(self._context.reactor)
            stages.append(TLSStage(choice, buffers, self._handshake_timeout, self._challenges.context))
        return stages

    def _handshake_timeout(self) -> int:
        return self._context.settings.tls_handshake_timeout

    def _first_bytes_timeout(self, config: VirtualService, listener: ListenAddress, unit: str) -> Callable[[], int]:
        """The time that a client has for its first bytes where it is no proxy: as without this stage."""
        context = self._context
        if listener.is_tls:
            return self._handshake_timeout
        if unit == EACH_REQUEST:
            return lambda: config.settings_from(context.settings).keepalive_timeout
        return lambda: config.settings_from(context.settings).head_timeout


def _in_networks(networks: Networks) -> Callable[[SocketAddress], bool]:
    """Returns whether an address is in one of the networks. A client of a unix socket has no address: only the socket's
    permissions say who it is, and it counts as a proxy."""
    judge = Filter(networks, Networks()).judge
    return lambda peer: not isinstance(peer, tuple) or judge(packed_address(peer))[0]
