"""Running services: listeners, clients from accept to the end of their connection, TLS at listeners, draining."""
