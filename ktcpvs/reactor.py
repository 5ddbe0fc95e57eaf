"""The reactor plugin `uvloop`: Twisted's asyncio reactor on a uvloop event loop."""


def install() -> None:
    """Make it this process' reactor; twistd calls this for `--reactor=uvloop`."""
    import uvloop
    from twisted.internet import asyncioreactor

    asyncioreactor.install(uvloop.new_event_loop())
