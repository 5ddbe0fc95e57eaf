"""Byte streams over sockets: the stream contract, its transports, accepting, connecting and closing."""
