"""A range of BMC addresses is scanned: who is asked what, who gets the password, and what is declared of it.

Before sushy-tools' emulator, and before BMCs that do wrong, each on a loopback address of its own.
"""

from __future__ import annotations

import io
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest
from sushy_tools.emulator import main as emulator
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).parent))

from api_server import GROUP, ApiServer, good
from test_redfish_settings import CA, Certificate
from troublesome_bmc import ROOT, SESSIONS, SYSTEM, TroublesomeBmc

from bedplate.cli.main import main
from bedplate.cli.scanning import Known, sort_out
from bedplate.drivers.redfish import scan
from bedplate.drivers.redfish.credentials import Credentials
from bedplate.drivers.redfish.scan import AT_ONCE, Answer, Found, RangeError, Scanner, System, addresses
from bedplate.drivers.redfish.wire import Limits

ADMIN = Credentials("admin", "hunter2")
QUICK = Limits(connect=0.5, read=2.0, answer=5.0)
UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"


# --- ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.7", ["10.0.0.7"]),
        ("10.0.0.9-10.0.0.11", ["10.0.0.9", "10.0.0.10", "10.0.0.11"]),
        ("10.0.0.255 - 10.0.1.1", ["10.0.0.255", "10.0.1.0", "10.0.1.1"]),
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.6/31", ["10.0.0.6", "10.0.0.7"]),
        ("fd00::10-fd00::11", ["fd00::10", "fd00::11"]),
    ],
)
def test_a_range_is_the_addresses_that_machines_may_have(text: str, found: list[str]) -> None:
    assert addresses(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.0/16", "holds 65534 addresses, and at most 4096"),
        ("10.0.0.0-10.0.16.0", "holds 4097 addresses"),
        ("fd00::/64", "and at most 4096 are scanned at once"),
        ("10.0.0.9-10.0.0.1", "ends before it begins"),
        ("10.0.0.5/28", "write it like 10.0.0.10-10.0.0.50 or 10.0.0.0/28"),
        ("bmc-1", "is no range of addresses"),
        ("10.0.0.1-fd00::1", "begins in IPv4 and ends in IPv6"),
        ("", "is no range of addresses"),
    ],
)
def test_what_is_no_range_or_too_large_a_one_is_refused_with_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(RangeError) as refused:
        addresses(text)
    assert said in str(refused.value)


# --- on loopback --------------------------------------------------------------------------------------------------


class Rack:
    """BMCs on loopback addresses, all at one port."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.port = 0
        self.bmcs: list[TroublesomeBmc] = []
        self.asked: list[tuple[str, str, bool]] = []
        """Of the emulator: method, path, and whether credentials came with it."""
        self._patch = patch
        self._ends: list[Callable[[], None]] = []

    def context(self, certificate: Certificate) -> ssl.SSLContext:
        return certificate.context(self.folder)

    def bmc(self, host: str, serial: str = "", certificate: Certificate | None = None) -> TroublesomeBmc:
        """One that speaks TLS, unless the certificate is left out."""
        made = TroublesomeBmc(lambda _: None, lambda: 0.0, (host, self.port))
        self.port = made.port
        made.resources[ROOT] |= {"RedfishVersion": "1.15.0", "Vendor": "Contoso"}
        made.resources[SYSTEM] |= {"Manufacturer": "Contoso", "Model": "3500", "SerialNumber": serial}
        if certificate is not None:
            self.secure(made, certificate)
        made.start()
        self._ends.append(made.stop)
        self.bmcs.append(made)
        return made

    def secure(self, bmc: TroublesomeBmc, certificate: Certificate) -> None:
        raw = bmc.server.socket
        bmc.server.socket = self.context(certificate).wrap_socket(raw, server_side=True, do_handshake_on_connect=False)

    def emulator(self, *hosts: str) -> None:
        """sushy-tools with one fake system, at these addresses."""
        users = self.folder / "users"
        users.write_bytes(b"admin:" + bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)) + b"\n")
        app = emulator.Application()
        app.url_map = emulator.app.url_map
        app.view_functions = emulator.app.view_functions
        app.error_handler_spec = emulator.app.error_handler_spec
        system = {"uuid": UUID, "name": "fake", "power_state": "On", "nics": []}
        app.configure(
            extra_config={
                "SUSHY_EMULATOR_FAKE_DRIVER": True,
                "SUSHY_EMULATOR_FAKE_SYSTEMS": [system],
                "SUSHY_EMULATOR_STATE_DIR": str(self.folder),
                "SUSHY_EMULATOR_AUTH_FILE": str(users),
            }
        )
        self._patch.setattr(emulator, "app", app)

        def recorded(environ: Any, respond: Any) -> Any:
            said = (environ["REQUEST_METHOD"], environ["PATH_INFO"], "HTTP_AUTHORIZATION" in environ)
            self.asked.append(said)
            return app(environ, respond)

        for host in hosts:
            tls = self.context(Certificate(f"emulated-{host}"))
            server = make_server(host, self.port, recorded, threaded=True, ssl_context=tls)
            self.port = server.server_port
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            self._ends.append(lambda s=server, t=thread: (s.shutdown(), s.server_close(), t.join())[0])

    def scanner(self, verify_ca: str = "") -> Scanner:
        return Scanner(verify_ca, self.port, QUICK, per_second=1000)

    def end(self) -> None:
        for end in self._ends:
            end()


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rack]:
    made = Rack(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.end()


def test_nobody_gets_credentials_in_the_first_round_and_silence_is_no_answer(rack: Rack) -> None:
    rack.emulator("127.0.0.2")
    [answer] = rack.scanner().look(addresses("127.0.0.2-127.0.0.6"))
    assert (answer.host, answer.redfish, len(answer.fingerprint)) == ("127.0.0.2", True, 64)
    assert rack.asked == [("GET", "/redfish/v1/", False)]


def test_the_second_round_reads_what_is_there_under_the_certificate_of_the_first(rack: Rack) -> None:
    rack.emulator("127.0.0.2")
    bmc = rack.bmc("127.0.0.3", "SN7", Certificate("idrac"))
    scanner = rack.scanner()
    emulated, own = scanner.read(scanner.look(["127.0.0.2", "127.0.0.3"]), ADMIN)
    [system] = emulated.systems
    assert (system.path.rpartition("/")[2], system.uuid, system.power) == (UUID, UUID, "On")
    assert {method for method, _, _ in rack.asked} == {"GET"}
    assert own.systems == (System(path=SYSTEM, vendor="Contoso", model="3500", serial="SN7", power="On"),)
    assert bmc.requests == [
        f"GET {ROOT}",
        f"POST {SESSIONS}",
        "GET /redfish/v1/Systems",
        f"GET {SYSTEM}",
        f"DELETE {SESSIONS}/t1",
    ]
    assert bmc.sessions == set()
    assert bmc.orders == []


def test_a_wrong_password_is_tried_once_at_each_and_at_three_at_most(rack: Rack) -> None:
    bmcs = [rack.bmc(f"127.0.0.{n}", f"SN{n}", Certificate("idrac")) for n in range(2, 7)]
    scanner = rack.scanner()
    found = scanner.read(scanner.look(addresses("127.0.0.2-127.0.0.6")), Credentials("admin", "wrong"))
    assert [b.refused_logins for b in bmcs] == [1, 1, 1, 0, 0]
    assert ["does not take the user name" in f.error for f in found] == [True, True, True, False, False]
    assert "not tried: 3 others refused" in found[4].error
    assert not any(f.systems for f in found)


def test_with_basic_authentication_too_a_refusal_ends_it(rack: Rack) -> None:
    rack.emulator("127.0.0.2")
    scanner = rack.scanner()
    [found] = scanner.read(scanner.look(["127.0.0.2"]), Credentials("admin", "wrong"))
    assert "does not take the user name and password (HTTP 401)" in found.error
    assert [with_credentials for _, _, with_credentials in rack.asked] == [False, True]


def test_one_refusal_among_many_that_take_it_stops_nobody(rack: Rack) -> None:
    bmcs = [rack.bmc(f"127.0.0.{n}", f"SN{n}", Certificate("idrac")) for n in range(2, 6)]
    bmcs[0].password = "another"
    scanner = rack.scanner()
    found = scanner.read(scanner.look(addresses("127.0.0.2-127.0.0.5")), ADMIN)
    assert [len(f.systems) for f in found] == [0, 1, 1, 1]
    assert [b.refused_logins for b in bmcs] == [1, 0, 0, 0]


def test_what_is_no_redfish_service_gets_no_credentials(rack: Rack) -> None:
    other = rack.bmc("127.0.0.2", "SN1", Certificate("printer"))
    del other.resources[ROOT]["RedfishVersion"]
    plain = rack.bmc("127.0.0.3", "SN2")
    answers = rack.scanner().look(["127.0.0.2", "127.0.0.3"])
    assert [a.redfish for a in answers] == [False, False]
    assert "does not speak Redfish" in answers[0].error
    assert "no TLS" in answers[1].error
    assert (other.requests, plain.requests) == ([f"GET {ROOT}"], [])


def test_a_bmc_that_shows_another_certificate_than_before_gets_no_credentials(rack: Rack) -> None:
    bmc = rack.bmc("127.0.0.2", "SN1", Certificate("idrac"))
    scanner = rack.scanner()
    answers = scanner.look(["127.0.0.2"])
    context = bmc.server.socket.context  # type: ignore[attr-defined]
    Certificate("idrac").context(rack.folder)
    context.load_cert_chain(rack.folder / "bmc.pem")
    [found] = scanner.read(answers, ADMIN)
    assert "certificate" in found.error
    assert bmc.requests == [f"GET {ROOT}"]
    assert bmc.logins == 0


def test_with_a_ca_only_what_it_signed_is_spoken_to(rack: Rack) -> None:
    signed = rack.bmc("127.0.0.2", "SN1", Certificate("idrac", ip="127.0.0.2", signer=CA))
    own = rack.bmc("127.0.0.3", "SN2", Certificate("idrac", ip="127.0.0.3"))
    scanner = rack.scanner(CA.pem)
    answers = scanner.look(["127.0.0.2", "127.0.0.3"])
    assert [(a.host, a.redfish) for a in answers] == [("127.0.0.2", True), ("127.0.0.3", False)]
    assert "not trusted" in answers[1].error
    assert (len(signed.requests), own.requests) == (1, [])


def test_no_more_are_asked_at_a_time_than_said(rack: Rack) -> None:
    bmc = rack.bmc("127.0.0.2", "SN1", Certificate("idrac"))
    bmc.server.socket.listen(3 * AT_ONCE)
    lock, gate = threading.Lock(), threading.Event()
    now, most = 0, 0

    def count(_method: str, _path: str) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == AT_ONCE:
                gate.set()  # as many as may be are in hand: only now does any of them go on
        gate.wait(10)
        with lock:
            now -= 1

    bmc.trouble = count
    assert len(rack.scanner().look(["127.0.0.2"] * (3 * AT_ONCE))) == 3 * AT_ONCE
    assert most == AT_ONCE


def test_new_addresses_are_begun_no_faster_than_said(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    rack.bmc("127.0.0.2", "SN1", Certificate("idrac"))
    waits: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=waits.append)
    monkeypatch.setattr(scan, "time", clock)
    assert len(Scanner("", rack.port, QUICK, per_second=20).look(["127.0.0.2"] * 5)) == 5
    assert sorted(round(w, 6) for w in waits) == [0.0, 0.05, 0.1, 0.15, 0.2]


# --- what is new --------------------------------------------------------------------------------------------------


def found(host: str, *serials: str, path: str = "/redfish/v1/Systems/") -> Found:
    systems = tuple(System(path=f"{path}{n}", serial=serial) for n, serial in enumerate(serials, 1))
    return Found(answer=Answer(host=host, port=443, redfish=True), systems=systems)


def test_names_are_serial_numbers_and_where_there_is_none_addresses() -> None:
    new = sort_out([found("10.0.0.7", "ABC 123"), found("10.0.0.8", ""), found("fd00::9", "")], [])
    assert [(c.name, c.bmc) for c in new] == [
        ("abc-123", "redfish+https://10.0.0.7"),
        ("bmc-10-0-0-8", "redfish+https://10.0.0.8"),
        ("bmc-fd00-9", "redfish+https://[fd00::9]"),
    ]


def test_a_name_that_is_taken_is_not_taken_over() -> None:
    [c] = sort_out([found("10.0.0.7", "ABC")], [Known("abc", "10.9.9.9", 443, "", "")])
    assert c.name == "bmc-10-0-0-7"
    taken = [Known(n, "10.9.9.9", 443, "", "") for n in ("abc", "bmc-10-0-0-7")]
    assert sort_out([found("10.0.0.7", "ABC")], taken)[0].name == "bmc-10-0-0-7-2"


def test_what_is_declared_already_is_said_to_be() -> None:
    declared = [
        Known("r1", "10.0.0.7", 443, "", ""),
        Known("r2", "bmc.example.com", 443, "", "XYZ"),
        Known("r3", "10.0.0.7", 8443, "", ""),
    ]
    a, b, c = sort_out([found("10.0.0.7", "ABC"), found("10.0.0.8", "XYZ"), found("10.0.0.9", "DEF")], declared)
    assert (a.name, a.why) == ("", "is r1")
    assert (b.name, b.why) == ("", "is r2 by its serial number, declared with another BMC")
    assert c.name == "def"


def test_two_addresses_of_one_serial_number_are_one_new_server_and_said() -> None:
    first, second, third = sort_out([found("10.0.0.7", "ABC"), found("10.0.0.8", "ABC"), found("10.0.0.9", "")], [])
    assert (first.name, second.name, third.name) == ("abc", "", "bmc-10-0-0-9")
    assert second.why.startswith("one serial number with 10.0.0.7")


def test_each_system_of_a_chassis_is_a_server_with_its_path() -> None:
    first, second, third = sort_out([found("10.0.0.7", "A", "B", "A")], [Known("r1", "10.0.0.7", 443, SYSTEM, "")])
    assert first.why == "is r1"
    assert (second.name, second.bmc) == ("b", "redfish+https://10.0.0.7/redfish/v1/Systems/2")
    assert third.why.startswith("one serial number with system 1 there")


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    folder = tmp_path / "api"
    folder.mkdir()
    server = ApiServer(folder)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def bedplate(api: ApiServer, rack: Rack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    password = rack.folder / "password"
    password.write_text("hunter2\n")

    def call(*words: str, answer: str | None = None) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO() if answer is None else Terminal(f"{answer}\n"))
        account = ["--username", "admin", "--password-file", str(password), "--port", str(rack.port)]
        return main(["server", "add", *account, *words, "--kubeconfig", str(api.kubeconfig)])

    return call


def servers(api: ApiServer) -> dict[str, Any]:
    return {s["metadata"]["name"]: s for s in good(api.call("GET", f"{GROUP}/servers"))["items"]}


def test_what_is_new_is_declared_and_not_accepted_and_is_known_from_then_on(
    api: ApiServer, rack: Rack, bedplate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rack.emulator("127.0.0.2")
    certificate = Certificate("idrac")
    rack.bmc("127.0.0.3", "SN7", certificate)
    words = ["--scan", "127.0.0.2-127.0.0.4", "--domain", "rack=r1"]
    assert bedplate(*words, "--dry-run", "--yes") == 0
    out = capsys.readouterr()
    assert "sn7 (new)" in out.out
    assert "2 servers would be added; nothing was" in out.err
    assert servers(api) == {}

    assert bedplate(*words, answer="y") == 0
    out = capsys.readouterr()
    assert "Send the user name and password to these 2" in out.err
    made = servers(api)
    assert set(made) == {"sn7", "bmc-127-0-0-2"}
    spec = made["sn7"]["spec"]
    assert spec["bmc"]["address"] == f"redfish+https://127.0.0.3:{rack.port}"
    assert spec["bmc"]["verifyCA"] == certificate.pem
    assert (spec["role"], spec["accepted"], spec["failureDomain"]) == ("free", False, {"rack": "r1"})
    assert api.store.user_secret("default", "bmc-sn7") is not None

    assert bedplate(*words, "--yes") == 0
    out = capsys.readouterr()
    assert "is sn7" in out.out
    assert "nothing new was found" in out.err
    assert set(servers(api)) == set(made)


def test_without_a_yes_the_password_goes_to_nobody(
    api: ApiServer, rack: Rack, bedplate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    bmc = rack.bmc("127.0.0.2", "SN7", Certificate("idrac"))
    assert bedplate("--scan", "127.0.0.2") == 1
    assert "nobody is here to confirm" in capsys.readouterr().err
    assert bedplate("--scan", "127.0.0.2", answer="n") == 1
    assert "the password was sent to nobody" in capsys.readouterr().err
    assert (bmc.logins, bmc.refused_logins, servers(api)) == (0, 0, {})


def test_insecure_asks_nobody_and_is_declared_as_such(api: ApiServer, rack: Rack, bedplate: Callable[..., int]) -> None:
    rack.bmc("127.0.0.2", "SN7", Certificate("idrac"))
    assert bedplate("--scan", "127.0.0.2", "--insecure") == 0
    assert servers(api)["sn7"]["spec"]["bmc"]["verifyCA"] == "insecure"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scan", "10.0.0.0/8"], "at most 4096 are scanned at once"),
        (["r1", "--scan", "10.0.0.1"], "NAME speaks of single servers"),
        (["--scan", "10.0.0.1", "-f", "x.csv"], "-f speaks of single servers"),
        (["--scan", "10.0.0.1", "--credentials", "x"], "can't read a Secret"),
        (["r1", "--bmc", "redfish+https://10.0.0.1", "--dry-run"], "--dry-run is for --scan"),
    ],
)
def test_what_can_not_be_scanned_is_refused_before_anything_is_sent(
    rack: Rack, bedplate: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    rack.port = 443
    assert bedplate(*words) == 1
    assert said in capsys.readouterr().err
