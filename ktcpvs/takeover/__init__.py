"""Upgrade in place: a new daemon takes table, secret and listening sockets from one that runs and then drains."""
