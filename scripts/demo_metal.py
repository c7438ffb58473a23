"""From blank servers to a cluster on both substrates, and back: each step as a user types it, with the times.

Bare servers behind Redfish BMCs are added, accepted, inspected and tested; one becomes a node beside virtual machines,
serves a workload, is drained, erased with its certificate, and becomes a hypervisor. Run by `make demo-metal`. KEEP=1
leaves the lab running.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from showing import Kubectl, bedplate, lab, say, shown, temporary

SERVERS = int(os.environ.get("SERVERS", "3"))
WORKLOAD = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
        - name: hello
          image: IMAGE
          imagePullPolicy: Never
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, timeoutSeconds: 5}
"""


def main() -> None:
    """The whole demonstration; ends with the time that each phase took."""
    headline = f"Two hypervisors, {SERVERS} blank servers behind their BMCs, and the controller"
    with lab(headline, "--hypervisors", "2", "--servers", str(SERVERS), ram=True, look="servers"):
        names = rack()
        cluster()
        used = give_back(names)
        hypervisor(used)


def rack() -> list[str]:
    """Add the servers from a list, and accept them."""
    say("The servers are added, with their BMCs. Nothing is done to them yet")
    found = json.loads(bedplate("lab", "status", "-o", "json", show=False))["servers"]
    lines = ["name,bmc,credentials,failureDomain.rack"]
    lines += [f"{s['name']},{s['bmc_address']},lab-bmc,r{n}" for n, s in enumerate(found, 1)]
    path = temporary("csv")
    path.write_text("\n".join(lines) + "\n")
    try:
        bedplate("server", "add", "-f", str(path))
    finally:
        path.unlink()
    names = [str(s["name"]) for s in found]
    bedplate("get", "servers")
    say("A person accepts them: they are booted, inspected and tested")
    bedplate("server", "accept", *names, "--yes", "--wait", "--timeout", "1800", phase="accept to available")
    bedplate("get", "servers")
    status = server(names[0])["status"]["metal"]
    disks = ", ".join(f"{d['serial']} ({d['size']}, {d['transport']})" for d in status["disks"])
    print(f"{names[0]}: {status['cpus']} CPUs, {status['memory']}, disks {disks}; tests: {'; '.join(status['tests'])}")
    return names


def cluster() -> None:
    """One declaration on both substrates, and a workload on each node."""
    say("One cluster on both substrates")
    bedplate("apply", "-f", "examples/demo-metal.yaml", "--wait", "--timeout", "3000", phase="apply to Ready")
    bedplate("get", "machines", "-o", "wide")
    bedplate("get", "servers")
    with Kubectl() as kubectl:
        kubectl("get", "nodes", "-o", "wide")
        kubectl.apply(WORKLOAD)
        kubectl("rollout", "status", "daemonset/hello", "--timeout=900s", phase="a pod on both")
        kubectl("get", "pods", "-o", "wide")


def give_back(names: list[str]) -> str:
    """The metal node leaves: drained, erased with its certificate, there for the next."""
    used = next(n for n in names if server(n)["status"]["metal"]["state"] == "deployed")
    say(f"The pool on bare servers is scaled to none: {used} is drained, erased and given back")
    began = time.monotonic()
    bedplate("scale", "nodepool/demo-db", "--replicas", "0")
    seen = ""
    while seen != "available":
        state = str(server(used)["status"]["metal"]["state"])
        if state != seen:
            seen = state
            print(f"  {time.monotonic() - began:7.1f} s  {used} is {state}", flush=True)
        if time.monotonic() - began > 1800 or state == "quarantined":
            raise SystemExit(f"demo: {used} is {state} after {time.monotonic() - began:.0f} s")
        time.sleep(0.5)
    for e in server(used)["status"]["metal"]["erasures"]:
        proof = f"{e['checked']} read back as blank" if e.get("erased") else "NOT blank"
        print(f"  certificate: disk {e['serial']}, {e['method']}, {proof}, {e['time']}", flush=True)
    bedplate("why", f"server/{used}")
    bedplate("get", "servers")
    return used


def hypervisor(name: str) -> None:
    """The same server reports for duty as a hypervisor."""
    say(f"{name} is to run virtual machines: it is written anew, boots, and reports for duty")
    asked = ("server", "role", name, "--to", "hypervisor", "--yes", "--wait", "--timeout", "1800")
    bedplate(*asked, phase="role to Ready")
    bedplate("get", "servers")
    bedplate("describe", "server", name)


def server(name: str) -> dict[str, Any]:
    """One server."""
    return shown("server", name)


if __name__ == "__main__":
    main()
