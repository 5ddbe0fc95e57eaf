"""Upgrade in place: a new daemon takes table, secret and listening sockets from a running one, which then drains."""
