"""Running services: listening, accepting clients, and changing the configuration without a gap."""
