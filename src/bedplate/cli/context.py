"""The client's context: which controller to ask, how to trust it, who asks. Kept as a kubeconfig of mode 0600.

Written as JSON, which is YAML too: kubectl reads it, and so does Bedplate without the cost of a YAML parser.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from bedplate.cli.errors import UserError, did_you_mean

VARIABLE = "BEDPLATE_CONFIG"


class Context(NamedTuple):
    """How to reach one controller."""

    name: str
    server: str
    """URL, always https."""
    ca: str
    """PEM text of the certificate authority; empty: the system's own."""
    token: str
    namespace: str = "default"


def default_path() -> Path:
    """Path of the context file: `BEDPLATE_CONFIG`, or `~/.config/bedplate/config`."""
    return Path(os.environ.get(VARIABLE) or os.path.expanduser("~/.config/bedplate/config"))


def load(path: Path | None = None, name: str = "") -> Context:
    """Read a context, the file's current one where no name is given.

    Raises:
        UserError: no file, a broken one, no such context, or a server without TLS.
    """
    path = path or default_path()
    config = _read(path)
    name = name or str(config.get("current-context") or "")
    if not name:
        raise UserError(f"{path} names no current context; give one with --context")
    context = _entry(config, "context", name, path)
    cluster = _entry(config, "cluster", str(context.get("cluster") or ""), path)
    user = _entry(config, "user", str(context.get("user") or ""), path)
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith("https://"):
        raise UserError(f'{path}: the server of context "{name}" is {server!r}; it must be an https:// URL')
    return Context(name, server, _ca(cluster, path), _token(user, path), str(context.get("namespace") or "default"))


def save(name: str, server: str, ca: str, token: str, path: Path | None = None) -> Path:
    """Write or replace the context `name` and make it the current one; other contexts of the file are kept.

    `ca` is PEM text. Gives the path written.
    """
    path = path or default_path()
    config = _read(path) if path.exists() else {}
    new: dict[str, dict[str, Any]] = {
        "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca.encode()).decode()},
        "user": {"token": token},
        "context": {"cluster": name, "user": name, "namespace": "default"},
    }
    config.setdefault("apiVersion", "v1")
    config.setdefault("kind", "Config")
    for kind, value in new.items():
        others = [e for e in config.get(f"{kind}s") or [] if e.get("name") != name]
        config[f"{kind}s"] = [*others, {"name": name, kind: value}]
    config["current-context"] = name
    _write(path, config)
    return path


def remove(name: str, path: Path | None = None) -> None:
    """Take the context `name` out of the file; the file goes with its last context."""
    path = path or default_path()
    if not path.exists():
        return
    config = _read(path)
    for kind in ("cluster", "user", "context"):
        config[f"{kind}s"] = [e for e in config.get(f"{kind}s") or [] if e.get("name") != name]
    if not config["contexts"]:
        path.unlink()
        return
    if config.get("current-context") == name:
        config["current-context"] = config["contexts"][0]["name"]
    _write(path, config)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(
            f"there is no context file at {path}; start a controller with `bedplate lab up` or `bedplate serve`, "
            f"or name its file with --kubeconfig or {VARIABLE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the context file {path} cannot be read: {error}") from None
    try:
        config = json.loads(text)
    except ValueError:
        config = _read_yaml(text, path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a kubeconfig; it must be a mapping with clusters, users and contexts")
    return config


def _read_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is neither JSON nor YAML: {' '.join(str(error).split())}") from None


def _write(path: Path, config: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)


def _entry(config: dict[str, Any], kind: str, name: str, path: Path) -> dict[str, Any]:
    entries = {str(e.get("name")): e for e in config.get(f"{kind}s") or [] if isinstance(e, dict)}
    if name not in entries:
        hint = did_you_mean(name, entries) or f"; it has {', '.join(entries) or 'none'}"
        raise UserError(f'{path} has no {kind} "{name}"{hint}')
    return dict(entries[name].get(kind) or {})


def _ca(cluster: dict[str, Any], path: Path) -> str:
    if cluster.get("insecure-skip-tls-verify"):
        raise UserError(f"{path} asks not to verify TLS; Bedplate always does: give certificate-authority-data instead")
    try:
        if data := cluster.get("certificate-authority-data"):
            return base64.b64decode(str(data), validate=True).decode()
        if file := cluster.get("certificate-authority"):
            return (path.parent / str(file)).read_text()
    except (binascii.Error, UnicodeDecodeError):
        raise UserError(f"{path}: certificate-authority-data is not base64 of a PEM text") from None
    except OSError as error:
        raise UserError(f"{path}: the certificate authority cannot be read: {error}") from None
    return ""


def _token(user: dict[str, Any], path: Path) -> str:
    if token := user.get("token"):
        return str(token)
    if file := user.get("tokenFile"):
        try:
            return (path.parent / str(file)).read_text().strip()
        except OSError as error:
            raise UserError(f"{path}: the token file cannot be read: {error}") from None
    return ""
