"""Answers to questions about a running switch: listings, statistics, explanations."""
