"""Pure: the protocols. A reader gets bytes and returns a value, or None for "not yet", or raises an exception."""
