"""Makes the manager of a switch's certificates, without importing what only a switch with such certificates needs."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

from ktcpvs.acme.store import CertificateFolder
from ktcpvs.director.director import Director
from ktcpvs.model.acme import directory_url
from ktcpvs.model.acme_sharing import Leadership, SharedValues
from ktcpvs.model.challenges import ChallengePublisher
from ktcpvs.model.settings import Settings

if TYPE_CHECKING:
    from ktcpvs.acme.manager import CertificateManager
    from ktcpvs.acme.order import CAClient


def make_manager(
    director: Director,
    folder: CertificateFolder,
    publisher: ChallengePublisher,
    leadership: Leadership | None = None,
    shared: SharedValues | None = None,
) -> CertificateManager:
    """Return the manager. leadership, shared: of a cluster; None: this switch is in none."""
    from ktcpvs.acme.manager import CertificateManager  # without --state there is none

    def make_client(settings: Settings) -> CAClient:
        from ktcpvs.acme.client import CA, Accounts, ACMEClient

        ca = CA(
            directory_url(settings.acme_directory),
            settings.acme_email,
            settings.acme_ca,
            settings.acme_eab_kid,
            settings.acme_eab_key,
            settings.acme_profile,
        )
        accounts = Accounts(folder.load_account, folder.save_account, folder.delete_account)
        return ACMEClient(ca, accounts, director.context.wall)

    return CertificateManager(director, folder, publisher, make_client, random, leadership, shared)
