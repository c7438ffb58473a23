"""Kubernetes' binary form of a body, as typed clients send core kinds; written here by hand after `generated.proto`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import contextlib

from api_server import SECRETS, ApiServer, good, refusal

from bedplate.api.protobuf import CONTENT_TYPE, ProtobufError, decode


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def envelope(kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, "v1") + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


def secret(name: str = "bmc") -> bytes:
    labels = field(11, field(1, "tier") + field(2, "db")) + field(11, field(1, "empty") + field(2, ""))
    # As Go writes it: also what was never set, and fields that Bedplate has no use for.
    meta = field(1, name) + field(2, "") + field(5, "") + field(7, 0) + field(8, b"") + field(10, 30) + labels
    data = field(2, field(1, "password") + field(2, b"\x00hunter2\xff"))
    return envelope("Secret", field(1, meta) + data + field(3, "Opaque") + field(4, field(1, "user") + field(2, "ü")))


def test_a_secret_is_read() -> None:
    assert decode(secret()) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bmc", "labels": {"tier": "db", "empty": ""}},
        "data": {"password": "AGh1bnRlcjL/"},
        "type": "Opaque",
        "stringData": {"user": "ü"},
    }


def test_an_event_is_read() -> None:
    about = field(1, "NodePool") + field(2, "default") + field(3, "web") + field(5, "bedplate.dev/v1alpha1")
    times = field(6, field(1, 1_700_000_000) + field(2, 5)) + field(10, field(1, 1))
    raw = field(1, field(1, "web.1")) + field(2, about) + field(3, "Grew") + times + field(8, 3) + field(9, "Normal")
    assert decode(envelope("Event", raw)) == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1"},
        "involvedObject": {
            "kind": "NodePool",
            "namespace": "default",
            "name": "web",
            "apiVersion": "bedplate.dev/v1alpha1",
        },
        "reason": "Grew",
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "count": 3,
        "type": "Normal",
    }


def test_what_can_not_be_read_is_refused() -> None:
    for wrong in (b"", b"{}", b"k8s\x00", envelope("Pod", b""), secret()[:-3], b"k8s\x00" + b"\xff" * 11):
        with pytest.raises(ProtobufError):
            decode(wrong)


@given(st.binary(max_size=80), st.sampled_from(["Secret", "Event", "Namespace", "DeleteOptions"]))
def test_no_bytes_do_harm(raw: bytes, kind: str) -> None:
    for body in (raw, b"k8s\x00" + raw, envelope(kind, raw)):
        with contextlib.suppress(ProtobufError):
            decode(body)


def test_the_api_takes_it_and_answers_in_json(api: ApiServer) -> None:
    accept = f"{CONTENT_TYPE},application/json"
    made = good(api.call("POST", SECRETS, secret(), content_type=CONTENT_TYPE, accept=accept), 201)
    assert made["metadata"]["labels"]["tier"] == "db"
    assert api.store.user_secret("default", "bmc") == {"password": "AGh1bnRlcjL/", "user": "w7w="}
    stale = envelope("DeleteOptions", field(2, field(1, "11111111-1111-4111-8111-111111111111")))
    refusal(api.call("DELETE", f"{SECRETS}/bmc", stale, content_type=CONTENT_TYPE), 409, "Conflict")
    dry = envelope("DeleteOptions", field(1, 0) + field(4, "Background") + field(5, "All"))
    good(api.call("DELETE", f"{SECRETS}/bmc", dry, content_type=CONTENT_TYPE))
    assert api.get(f"{SECRETS}/bmc")
    unread = api.call("POST", SECRETS, envelope("Pod", b""), content_type=CONTENT_TYPE)
    assert "application/json" in refusal(unread, 415, "UnsupportedMediaType")["message"]
