"""Read-only views of a running switch: listings, statistics, explanations."""
