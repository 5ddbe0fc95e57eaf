"""What makes the scheduler known: an instance, in a twisted/plugins folder."""

from ktcpvs_redis import Redis

redis = Redis()
