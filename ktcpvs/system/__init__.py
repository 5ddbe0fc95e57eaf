"""What the operating system and the installation give: the log, sockets, names, plugins."""
