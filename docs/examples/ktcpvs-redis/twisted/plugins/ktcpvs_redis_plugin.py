"""Registers the scheduler: twisted.plugin finds this instance."""

from ktcpvs_redis import Redis

redis = Redis()
