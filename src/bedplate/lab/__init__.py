"""A small datacentre on one computer: hypervisors as real libvirt daemons in namespaces of their own, joined by a
switch. It drives no machine and knows no controller: it only gives them a world to work in.
"""

from bedplate.lab.config import LabNetwork
from bedplate.lab.errors import LabError
from bedplate.lab.lab import Lab
from bedplate.lab.status import HypervisorStatus, LabStatus, MetalStatus

__all__ = ["HypervisorStatus", "Lab", "LabError", "LabNetwork", "LabStatus", "MetalStatus"]
