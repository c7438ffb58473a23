"""A server dies under a running cluster, then another is emptied live: what happens, when, on the terminal.

Three hypervisors with BMCs, a Kubernetes cluster on a shared disk pool, a StatefulSet of one pod and a Service. Run by
`make demo-failover`. KEEP=1 leaves the lab running, to go on by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from showing import Kubectl, bedplate, lab, say, shown

WORKLOAD = """
apiVersion: v1
kind: Service
metadata: {name: store}
spec:
  type: NodePort
  selector: {app: store}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  replicas: 1
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      containers:
        - name: store
          image: IMAGE
          imagePullPolicy: Never
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, timeoutSeconds: 5}
"""

CLIENT = """
import sys, time, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
asked = failed = 0
longest = 0.0
end = time.monotonic() + seconds
while time.monotonic() < end:
    began = time.monotonic()
    try:
        urllib.request.urlopen(url, timeout=5).read()
    except OSError:
        failed += 1
    asked += 1
    longest = max(longest, time.monotonic() - began)
    time.sleep(max(0.0, 0.2 - (time.monotonic() - began)))
print(asked, failed, round(longest, 2))
"""
"""Run inside the lab's network, by a hypervisor: five requests a second."""


class Clock:
    """Tells what happened, so many seconds after the fault."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seen: dict[str, float] = {}

    def mark(self, what: str) -> None:
        """Tell it once."""
        if what not in self.seen:
            self.seen[what] = time.monotonic() - self.began
            print(f"  {self.seen[what]:7.1f} s  {what}", flush=True)


def main() -> None:
    """The whole demonstration; ends with the time that each phase took."""
    with lab("Three hypervisors with BMCs, and the controller", "--hypervisors", "3"):
        say("A cluster on the shared disk pool")
        bedplate("apply", "-f", "examples/demo.yaml", "--wait", "--timeout", "2400", phase="cluster Ready")
        with Kubectl() as kubectl:
            kubectl.apply(WORKLOAD)
            kubectl("rollout", "status", "statefulset/store", "--timeout=600s", phase="pod Ready")
            power_cut(kubectl)
            maintenance(kubectl)


# --- the server dies ----------------------------------------------------------------------------------------------


def power_cut(kubectl: Kubectl) -> None:
    """Cut the power of the server under the stateful pod and tell what follows."""
    node = stateful(kubectl)["spec"]["nodeName"]
    server = machine(node)["spec"]["server"]
    say(f"The power of {server} is cut: it runs {node}, which runs the pod store-0")
    bedplate("get", "machines")
    old = stateful(kubectl)["metadata"]["uid"]
    clock = Clock()
    bedplate("lab", "fault", "power-off", server)
    clock.mark("the power is cut")
    steps: list[tuple[str, Callable[[], bool]]] = [
        (f"{server} is suspect: its agent is not heard of", lambda: phase(server) in {"Suspect", "Fencing", "Dead"}),
        (f"{server} is dead: its power was read back as off", lambda: phase(server) == "Dead"),
        ("its machine has a new server", lambda: machine(node)["spec"]["server"] != server),
        ("the old pod is gone from the dead node", lambda: stateful(kubectl).get("metadata", {}).get("uid") != old),
        ("the pod is Ready on another node", lambda: is_elsewhere(stateful(kubectl), node)),
        ("the machine's node is Ready again, on another server", lambda: back_elsewhere(node, server)),
    ]
    end = time.monotonic() + 900
    while left := [(what, reached) for what, reached in steps if what not in clock.seen]:
        for what, reached in left:
            if reached():
                clock.mark(what)
        if time.monotonic() > end:
            raise SystemExit(f"demo: not within 15 min: {left[0][0]}")
        time.sleep(0.2)
    bedplate("why", f"server/{server}")
    say(f"{server} gets its power back")
    bedplate("lab", "fault", "clear", server)
    until(f"{server} is back", lambda: phase(server) == "Ready", 300)
    clock.mark(f"{server} is back; it starts none of its old guests")
    bedplate("get", "servers")


# --- a server is emptied live -------------------------------------------------------------------------------------


def maintenance(kubectl: Kubectl) -> None:
    """Empty a server live while a client asks the Service all the time; beside it a control run without any move."""
    node = stateful(kubectl)["spec"]["nodeName"]
    at = machine(node)
    server, address = at["spec"]["server"], at["spec"]["address"]
    client = next(s for s in servers() if s != server)
    say(f"{server} is emptied live while a client on {client} asks the Service five times a second")
    first = ask(client, address, 60)
    print(f"  control run: {first[0]} requests, {first[1]} failed, the longest took {first[2]} s", flush=True)
    second = start_asking(client, address, 120)
    bedplate("maintain", f"server/{server}", "--reason", "new firmware", "--wait", "--timeout", "600", phase="emptied")
    out = second.communicate(timeout=300)[0].split()
    print(f"  while it moved: {out[0]} requests, {out[1]} failed, the longest took {out[2]} s", flush=True)
    bedplate("events")
    bedplate("get", "machines")
    bedplate("maintain", f"server/{server}", "--undo")
    if int(out[1]) > int(first[1]):
        raise SystemExit("demo: more requests failed than without a move")


def ask(server: str, address: str, seconds: int) -> list[str]:
    """Ask the Service from within the lab; gives how often, how often in vain, and the longest answer's seconds."""
    return start_asking(server, address, seconds).communicate(timeout=seconds + 120)[0].split()


def start_asking(server: str, address: str, seconds: int) -> subprocess.Popen[str]:
    """Begin to ask."""
    argv = [sys.executable, "-c", CLIENT, f"http://{address}:30080/hostname", str(seconds)]
    inside = json.dumps([server, argv])
    program = "import json,sys; from bedplate.lab import Lab; s, a = json.loads(sys.argv[1]); "
    program += "print(Lab().exec(s, a, timeout=600).stdout)"
    return subprocess.Popen([sys.executable, "-c", program, inside], stdout=subprocess.PIPE, text=True)


# --- looking ------------------------------------------------------------------------------------------------------


def stateful(kubectl: Kubectl) -> dict[str, Any]:
    """The stateful pod; empty where there is none, or while the API does not answer."""
    argv = [*kubectl.argv, "get", "pod", "store-0", "-o", "json", "--request-timeout=10s"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def is_ready(pod: dict[str, Any]) -> bool:
    """The pod is Ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def is_elsewhere(pod: dict[str, Any], node: str) -> bool:
    """The pod is Ready on another node than that."""
    return is_ready(pod) and pod["spec"]["nodeName"] != node


def machine(name: str) -> dict[str, Any]:
    """The machine of that name."""
    return shown("machine", name)


def back_elsewhere(name: str, old: str) -> bool:
    """The machine is Ready on another server than that."""
    m = machine(name)
    return m["spec"]["server"] != old and m["status"]["phase"] == "Ready"


def phase(server: str) -> str:
    """The server's phase."""
    return str(shown("server", server)["status"]["phase"])


def servers() -> list[str]:
    """Names of all servers."""
    return [s["metadata"]["name"] for s in json.loads(bedplate("get", "servers", "-o", "json", show=False))["items"]]


def until(what: str, reached: Callable[[], bool], seconds: float) -> None:
    """Look twice a second until it is reached."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise SystemExit(f"demo: not within {seconds:.0f} s: {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
