"""Client connections that are relayed as a whole, with any protocol."""
