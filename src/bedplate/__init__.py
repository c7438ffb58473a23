"""Bedplate: Kubernetes on virtual machines and on bare metal from one pool of servers."""

__version__ = "0.1.0"
