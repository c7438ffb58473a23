"""Drivers: each speaks to one part of the real world behind a port, and knows no other driver."""
