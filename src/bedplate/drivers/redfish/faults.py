"""What can go wrong with a BMC, as one exception whose message is a sentence for people. Holds no secret."""

from __future__ import annotations

from typing import Literal

Kind = Literal["unreachable", "busy", "credentials", "forbidden", "missing", "garbage", "failed", "settings"]
"""`unreachable`: no answer. `busy`: it asks to come back later. `credentials`: they are not taken. `forbidden`: they
are, and this is not allowed or not licensed. `missing`: it has no such thing. `garbage`: an answer that is none.
`failed`: it says that it failed. `settings`: what was declared of it can't be used."""


class BmcError(Exception):
    """One request, or a login, that did not do what it should.

    `sent`: the request may have arrived, so an order may have its effect. `retry_after`: seconds that
    the BMC asked for. `wants`: names of what it says is missing in the request.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after: float = 0.0,
        sent: bool = True,
        wants: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.retry_after = retry_after
        self.sent = sent
        self.wants = wants
