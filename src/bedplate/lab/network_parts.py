"""Starts the two parts of a lab that all hypervisors share: the switch, and the gateway to the host's loopback.

Called with the lab's lock held.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

from bedplate.lab import processes, wiring
from bedplate.lab.config import LabState
from bedplate.lab.errors import LabError
from bedplate.lab.keeper import Keeper, Progress


def raise_switch(lab: Keeper, state: LabState, progress: Progress) -> None:
    """Have the switch run."""
    if processes.alive(state.switch):
        return
    processes.kill(state.gateway)  # it holds on to the namespace of the switch that is gone
    processes.kill_marked(lab.folder, "switch")
    state.switch = processes.launch(
        lab.folder,
        "switch",
        wiring.switch_command(state.network),
        namespaces=["net"],
        log=lab.folder / "switch.log",
    )
    lab.save(state)
    progress("switch", f"up at {state.network.gateway}/{state.network.prefix}")


def raise_gateway(lab: Keeper, state: LabState, progress: Progress) -> None:
    """Have the gateway run, with the relays and names of the state."""
    assert state.switch is not None
    if processes.alive(state.gateway):
        tell_gateway(lab, state)
        return
    processes.kill_marked(lab.folder, "gateway")
    spec = lab.folder / "gateway.json"
    spec.write_text(
        json.dumps(
            {
                "namespace": f"/proc/{state.switch.pid}/ns/net",
                "address": state.network.gateway,
                "names": {one.name: one.address for one in state.hypervisors.values()},
                "socks_port": state.socks_port,
                "relays": state.relays,
                "control": str(_control(lab)),
            }
        )
    )
    try:
        state.gateway = processes.launch(
            lab.folder,
            "gateway",
            [*processes.script("gateway.py"), str(spec)],
            namespaces=[],
            log=lab.folder / "gateway.log",
        )
    except LabError as error:
        if "address already in use" in str(error).lower():
            raise LabError(
                f"port {state.socks_port} of 127.0.0.1 is in use, and the lab's proxy needs it: end the program"
                " that has it, or name another port (`--socks-port`)"
            ) from None
        raise
    lab.save(state)
    progress("gateway", f"socks5://127.0.0.1:{state.socks_port}")


def tell_gateway(lab: Keeper, state: LabState) -> None:
    """Give the running gateway the relays and names that the state holds."""
    if not processes.alive(state.gateway):
        raise LabError("the lab's gateway is dead: `bedplate lab up` mends it")
    names = {one.name: one.address for one in state.hypervisors.values()}
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(_control(lab)))
        link.sendall(json.dumps({"relays": state.relays, "names": names}).encode() + b"\n")
        with link.makefile("rb") as reader:
            answer = json.loads(reader.readline() or b'{"error": "it hung up"}')
    if answer["error"]:
        raise LabError(f"the lab's gateway cannot relay: {answer['error']}")


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def _control(lab: Keeper) -> Path:
    return lab.folder / "gateway.sock"
