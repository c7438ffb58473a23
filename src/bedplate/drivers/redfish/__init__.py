"""Servers' BMCs over Redfish: power with read-back, health. What counts is what is read back, never a reply."""
