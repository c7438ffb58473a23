"""From blank servers to a cluster on both substrates, and back: each step as a user types it, with the times.

Bare servers behind Redfish BMCs are added, accepted, inspected and tested; one becomes a node beside virtual machines,
serves a workload, is drained, erased with its certificate, and is there for the next. Run by `make demo-metal`. KEEP=1
leaves the lab running.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from showing import bedplate, run, say, tell_phases

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
    began = time.monotonic()
    say("A Kubernetes release, a node image and the RAM system (built on the first run, then cached)")
    bedplate("release", "build", "1.35.3", phase="release")
    bedplate("image", "build", "--release", "1.35.3", phase="node image")
    bedplate("image", "build", "--ram", phase="RAM system")
    keep = os.environ.get("KEEP", "") not in {"", "0"}
    try:
        say(f"Two hypervisors, {SERVERS} blank servers behind their BMCs, and the controller")
        bedplate("lab", "up", "--hypervisors", "2", "--servers", str(SERVERS), phase="lab")
        names = rack()
        cluster()
        give_back(names)
    finally:
        if keep:
            say("The lab goes on. Try: bedplate get servers; bedplate lab down ends it")
        else:
            say("Taking it all down")
            bedplate("lab", "down", phase="lab down")
    tell_phases(time.monotonic() - began)


def rack() -> list[str]:
    """Add the servers from a list, and accept them."""
    say("The servers are added, with their BMCs. Nothing is done to them yet")
    found = json.loads(bedplate("lab", "status", "-o", "json", show=False))["servers"]
    lines = ["name,bmc,credentials,failureDomain.rack"]
    lines += [f"{s['name']},{s['bmc_address']},lab-bmc,r{n}" for n, s in enumerate(found, 1)]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"bedplate-demo-{os.getpid()}.csv"
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
    kubeconfig = str(Path(os.environ.get("TMPDIR", "/tmp")) / f"bedplate-demo-{os.getpid()}.kubeconfig")
    bedplate("kubeconfig", "demo", "-o", kubeconfig)
    try:
        release = json.loads(bedplate("release", "path", "1.35.3", "-o", "json", show=False))
        kubectl = [release["kubectl"], "--kubeconfig", kubeconfig]
        run(*kubectl, "get", "nodes", "-o", "wide", patient=True)
        run(*kubectl, "apply", "-f", "-", stdin=WORKLOAD.replace("IMAGE", release["agnhost"]), patient=True)
        run(*kubectl, "rollout", "status", "daemonset/hello", "--timeout=900s", phase="a pod on both", patient=True)
        run(*kubectl, "get", "pods", "-o", "wide", patient=True)
    finally:
        Path(kubeconfig).unlink(missing_ok=True)


def give_back(names: list[str]) -> None:
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


def server(name: str) -> dict[str, Any]:
    """One server."""
    return dict(json.loads(bedplate("get", "server", name, "-o", "json", show=False)))


if __name__ == "__main__":
    main()
