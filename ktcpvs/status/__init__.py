"""The status over HTTP, read-only: a page, its data as JSON, and metrics for Prometheus."""
