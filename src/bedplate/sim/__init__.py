"""A simulated world behind the same ports, on a virtual clock. It never imports drivers."""
