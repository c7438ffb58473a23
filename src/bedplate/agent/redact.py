"""Takes secrets out of log lines before they leave the server. Pure."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
_PATTERNS = (
    re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*-----|\Z)", re.DOTALL),
    re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),  # kubeadm's bootstrap token
    re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"),  # a JSON web token
    re.compile(r"(?i)(?<=bearer )\S+"),
    # `password: x`, `--certificate-key x`, `token=x`; not "the token is being created".
    re.compile(r"(?i)(?:(?<=password)|(?<=passwd)|(?<=token)|(?<=secret)|(?<=certificate-key))s?\s*[=:]\s*\S+"),
    re.compile(r"(?i)(?<=--certificate-key )\S+|(?<=--token )\S+|(?<=--password )\S+"),
    re.compile(r"(?<![\w:])[0-9a-f]{64}(?!\w)"),  # a bare key; a digest with its `sha256:` stays
    re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{80,}={0,2}"),  # a long base64 text
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[^\S\n]*\r|[\x00-\x08\x0b-\x1f\x7f]")

LINES = 20
CHARS = 4000


def tail(text: str, lines: int = LINES) -> str:
    """The last lines of a log for people: no secrets, no terminal control, at most 4,000 characters."""
    clean = _CONTROL.sub("", text)
    for pattern in _PATTERNS:
        clean = pattern.sub(HIDDEN, clean)
    kept = [line.rstrip() for line in clean.splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-CHARS:]
