"""The switch inside any Twisted program: services as client endpoints, without listeners."""
