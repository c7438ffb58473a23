"""How the agent's own parts say that something did not go: turned into a step's result in one place."""

from __future__ import annotations


class AgentFault(Exception):
    """A step can't be done. `reason` is CamelCase for programs; the text is a sentence for people."""

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent


class OutOfDate(Exception):
    """The world has seen a higher epoch or generation than the one that was shown."""


class HypervisorDown(Exception):
    """libvirt can't be reached or does not answer. `begun`: the call may have had its effect all the same."""

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun
