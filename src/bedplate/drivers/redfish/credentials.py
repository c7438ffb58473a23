"""User name and password of a BMC out of a Secret. They are given to the login only, and print as nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from bedplate.drivers.redfish.faults import BmcError

SecretData = Callable[[str, str], Mapping[str, str] | None]
"""Gives the data (base64 texts by key) of the Secret of that namespace and name, or None. Blocking."""


class Credentials:
    """A user name and a password."""

    def __init__(self, username: str, password: str) -> None:
        self.username = username
        self.password = password

    def __repr__(self) -> str:
        return "Credentials(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credentials) and (self.username, self.password) == (other.username, other.password)

    __hash__ = None  # type: ignore[assignment]


def read(secrets: SecretData, secret: str) -> Credentials:
    """Read them out of the Secret `namespace/name`. Blocking.

    Raises:
        BmcError: it is missing, or a key in it is.
    """
    namespace, _, name = secret.partition("/")
    data = secrets(namespace, name)
    remedy = f"create it with `kubectl -n {namespace} create secret generic {name} --from-literal=username=... "
    remedy += "--from-literal=password=...`"
    if data is None:
        raise BmcError(
            "settings", f"Secret {secret} with the BMC's user name and password is missing; {remedy}", sent=False
        )
    return Credentials(_value(data, secret, "username"), _value(data, secret, "password"))


def _value(data: Mapping[str, str], secret: str, key: str) -> str:
    try:
        text = base64.b64decode(data[key], validate=True).decode()
    except KeyError:
        text = ""
    except (binascii.Error, UnicodeDecodeError):
        raise BmcError("settings", f"key {key} of Secret {secret} is not text; write it anew", sent=False) from None
    if not text:
        raise BmcError("settings", f"Secret {secret} has no key {key}; add it", sent=False)
    return text.rstrip("\r\n")  # a file's last line end is nobody's password
