"""The main job for real: three hypervisors, a Kubernetes cluster on them, a Service answering over two nodes.

Run by `make demo`. `--keep` (or `make demo KEEP=1`) leaves the lab running, to go on by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import time

from showing import KEEP, Kubectl, bedplate, lab, say

TIMELINE: list[str] = []
"""The cluster's, told before it is deleted and shown at the end."""

WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
           labelSelector: {matchLabels: {app: hello}}}
      containers:
        - name: hello
          image: IMAGE
          imagePullPolicy: Never
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  type: NodePort
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080}]
"""


def answers(kubectl: list[str], wanted: int) -> set[str]:
    """Ask the Service through the API server's proxy until so many different pods have answered."""
    seen: set[str] = set()
    deadline = time.monotonic() + 240
    path = "/api/v1/namespaces/default/services/hello:80/proxy/hostname"
    while len(seen) < wanted and time.monotonic() < deadline:
        done = subprocess.run([*kubectl, "get", "--raw", path], text=True, capture_output=True, timeout=60, check=False)
        if done.returncode == 0 and done.stdout.strip():
            seen.add(done.stdout.strip())
        else:
            time.sleep(1)
    return seen


def main() -> None:
    """The whole demonstration; ends with the time that each phase took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", default=KEEP)
    keep = parser.parse_args().keep
    with lab("Three hypervisors, and the controller", "--hypervisors", "3", keep=keep):
        bedplate("get", "servers")
        cluster()
    if TIMELINE:
        say("Where the cluster's time went, from apply to Ready")
        print("\n".join(TIMELINE))


def cluster() -> None:
    """Declare a cluster, wait for it, run a workload in it, grow it, delete it."""
    say("Declare a cluster, get a cluster")
    bedplate("plan", "-f", "examples/demo.yaml", phase="plan")
    bedplate("apply", "-f", "examples/demo.yaml", "--wait", "--timeout", "2400", phase="apply to Ready")
    TIMELINE.append(bedplate("timeline", "cluster/demo", show=False))
    bedplate("get", "machines", "-o", "wide")
    say("kubectl talks to it")
    with Kubectl() as kubectl:
        kubectl("get", "nodes", "-o", "wide")
        kubectl.apply(WORKLOAD)
        kubectl("rollout", "status", "deployment/hello", "--timeout=600s", phase="two pods Ready")
        pods = answers(kubectl.argv, 2)
        print(f"The Service answers from {len(pods)} pods: {', '.join(sorted(pods))}")
        if len(pods) < 2:
            raise SystemExit("demo: the Service did not answer from two pods")
        kubectl("get", "pods", "-o", "wide")
    say("And take it away again")
    bedplate("delete", "cluster", "demo", "--wait", phase="delete")


if __name__ == "__main__":
    main()
