"""One switch in several processes: a supervisor, and workers that it administers."""
