"""Identities: uids, names and MAC addresses, derived from planning's input so that planning stays a pure function.

Nothing here knows which ones are taken; callers count `ordinal` or `salt` up where one is.
"""

from __future__ import annotations

from hashlib import sha256

from bedplate.model.ids import Key, MachineUid, Revision

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Without vowels and look-alikes, as Kubernetes' own generated names: no words by accident."""
_SUFFIX_LENGTH = 5
_PREFIX_LIMIT = 63 - 1 - _SUFFIX_LENGTH
"""A node's name is a DNS label."""


def machine_uid(seed: int, parent: Revision, now: float, owner: Key, ordinal: int) -> MachineUid:
    """Give a UUID (version 8) that no other planning gives: the time tells a restored store's numbers apart."""
    h = sha256(f"{seed}/{parent}/{now!r}/{owner}/{ordinal}".encode()).hexdigest()
    variant = "89ab"[int(h[16], 16) & 3]
    return MachineUid(f"{h[:8]}-{h[8:12]}-8{h[13:16]}-{variant}{h[17:20]}-{h[20:32]}")


def machine_name(prefix: str, uid: MachineUid, salt: int = 0) -> str:
    """Give `<prefix>-<5 characters>`, a DNS label."""
    number = int.from_bytes(sha256(f"name/{uid}/{salt}".encode()).digest()[:8], "big")
    suffix = ""
    for _ in range(_SUFFIX_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        suffix += _ALPHABET[digit]
    return f"{prefix[:_PREFIX_LIMIT].rstrip('-')}-{suffix}"


def mac_address(uid: MachineUid, salt: int = 0) -> str:
    """Give a locally administered unicast address with 40 bits of the uid: 24 would collide in a fleet of 10,000."""
    h = sha256(f"mac/{uid}/{salt}".encode()).hexdigest()
    return "52:" + ":".join(h[i : i + 2] for i in range(0, 10, 2))
