"""Pure: what the bytes say. Each protocol a file; every reader gives a value, None for "not yet", or an error."""
