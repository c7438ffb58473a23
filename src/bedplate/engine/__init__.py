"""The loop without I/O: events in, commands out. No clock, no await, no log call."""
