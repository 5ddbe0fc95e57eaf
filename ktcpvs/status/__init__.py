"""What an administrator and Prometheus look at over HTTP: a page, its data, metrics. Nothing can be changed here."""
