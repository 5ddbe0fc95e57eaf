"""One switch in several processes: a supervisor that is administered, and workers that it administers."""
