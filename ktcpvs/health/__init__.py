"""Health of servers: active checks, passive ejection, slow start."""
