"""The times by which a server that nobody hears of is known to have ended its guests. Agents and planning share them.

An agent renews one lease per shared disk pool every `RENEW` seconds and ends the pool's guests where it could not for
`GIVE_UP` seconds. It feeds the server's watchdog while it does its duty; unfed for `WATCHDOG` seconds, that cuts the
power. Another server that sees the lease unrenewed for `EXPIRY` seconds tells so. `EXPIRY + WATCHDOG + MARGIN` seconds
after the last renewal nothing of that server writes to the pool any more, whatever has become of it.
"""

from __future__ import annotations

RENEW = 2.0
"""Seconds between renewals: five tries before the lease is over."""
GIVE_UP = 7.0
"""Seconds without a renewal after which an agent ends the pool's guests: cutting them takes a second, `EXPIRY` is not
reached before they are gone. Storage that stalls a guest for as long is failing it anyway."""
EXPIRY = 10.0
"""Seconds without a renewal after which another server takes the lease for expired."""
WATCHDOG = 15.0
"""Seconds that a server runs on unfed. An agent that is killed is back well within it, so its guests are not lost."""
MARGIN = 3.0
"""Seconds for clocks that do not run alike and for a power cut to take effect."""
