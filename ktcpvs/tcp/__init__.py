"""Client connections that are relayed as a whole, whatever protocol they speak."""
