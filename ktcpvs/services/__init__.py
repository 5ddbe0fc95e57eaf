"""Running services: listening, accepting, changing the configuration without a gap."""
