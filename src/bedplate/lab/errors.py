"""The one error of the lab. It may hold nothing but its sentence."""

from __future__ import annotations


class LabError(Exception):
    """What is wrong and how to mend it, in one sentence that is shown to the user as it is."""
