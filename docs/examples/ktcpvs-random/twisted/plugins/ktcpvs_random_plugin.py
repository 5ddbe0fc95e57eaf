"""Registers the scheduler: twisted.plugin finds this instance."""

from ktcpvs_random import Random

random = Random()
