"""The main job in the lab: a cluster is made, scaled, hurt, changed and deleted, with real parts throughout.

The first test is what `make test` has time for on two emulated cores; the second tells the whole story.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab

CLUSTER = """
apiVersion: bedplate.dev/v1alpha1
kind: Cluster
metadata: {name: shop}
spec:
  kubernetes: "1.35"
  controlPlane:
    replicas: 1
    machine: {cpu: 2, memory: 2Gi, disk: 12Gi}
---
apiVersion: bedplate.dev/v1alpha1
kind: NodePool
metadata: {name: shop-web}
spec:
  cluster: shop
  replicas: REPLICAS
  machine: {cpu: 1, memory: 1536Mi, disk: 12Gi}
"""

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
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway,
           labelSelector: {matchLabels: {app: hello}}}
      terminationGracePeriodSeconds: 5
      containers:
        - name: hello
          image: IMAGE
          imagePullPolicy: Never
          args: [netexec, --http-port=8080]
          readinessProbe: {httpGet: {path: /hostname, port: 8080}, timeoutSeconds: 10, failureThreshold: 6}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: hello}
spec: {minAvailable: 1, selector: {matchLabels: {app: hello}}}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080}]
"""


def ready(machine: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in machine["status"].get("conditions", []))


def pool(world: Any) -> list[dict[str, Any]]:
    """The pool's machines."""
    return world.objects("machines", "-l", "bedplate.dev/pool=shop-web")


def settled(world: Any, replicas: int) -> bool:
    machines = pool(world)
    return len(machines) == replicas and all(ready(m) for m in machines)


class Visitor:
    """Somebody who uses the Service all the while, and counts."""

    def __init__(self, world: Any, kubeconfig: Path) -> None:
        self._get = lambda: world.kubectl(
            kubeconfig, "get", "--raw", "/api/v1/namespaces/default/services/hello:80/proxy/hostname",
            "--request-timeout=20s", check=False,
        )  # fmt: skip
        self._stop = threading.Event()
        self.answered: set[str] = set()
        self.good = 0
        self.longest_gap = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(2.0):
            answer = self._get().strip()
            now = time.monotonic()
            if answer:
                self.answered.add(answer)
                self.good += 1
                last = now
            self.longest_gap = max(self.longest_gap, now - last)


def test_a_cluster_from_declaration_to_nothing_left(world: Any, tmp_path: Path) -> None:
    create(world, workers=1)
    killed_controller_and_agents_while_scaling(world, 2)
    kubeconfig = tmp_path / "kubeconfig"
    world.bedplate("kubeconfig", "shop", "-o", str(kubeconfig))
    a_service_answers_over_two_nodes(world, kubeconfig)
    a_destroyed_domain_is_started_again(world)
    delete(world)


@pytest.mark.long
def test_a_cluster_is_hurt_and_changed(world: Any, tmp_path: Path) -> None:
    create(world, workers=2)
    kubeconfig = tmp_path / "kubeconfig"
    world.bedplate("kubeconfig", "shop", "-o", str(kubeconfig))
    a_service_answers_over_two_nodes(world, kubeconfig)
    a_failed_kubelet_is_restarted(world)
    a_lost_disk_is_replaced(world)
    killed_controller_and_agents_while_scaling(world, 3, 1)
    a_changed_image_is_rolled_out_while_the_service_answers(world, kubeconfig)
    delete(world)


def create(world: Any, workers: int) -> None:
    world.bedplate("apply", "-f", "-", "--wait", "--timeout", "2400", stdin=cluster_of(workers), timeout=2500)
    machines = world.objects("machines")
    assert sorted(m["spec"]["role"] for m in machines) == ["control-plane", *["worker"] * workers]
    assert all(ready(m) for m in machines)
    assert len({m["spec"]["server"] for m in machines}) == 1 + workers, "each machine on a hypervisor of its own"


def cluster_of(workers: int) -> str:
    return CLUSTER.replace("REPLICAS", str(workers))


def a_service_answers_over_two_nodes(world: Any, kubeconfig: Path) -> None:
    image = "registry.k8s.io/e2e-test-images/agnhost"
    release = json.loads(world.bedplate("release", "path", "1.35.3", "-o", "json"))
    workload = WORKLOAD.replace("IMAGE", release.get("agnhost", image))
    world.until("kubectl applies", lambda: world.kubectl(kubeconfig, "apply", "-f", "-", stdin=workload, check=False))
    world.kubectl(kubeconfig, "rollout", "status", "deployment/hello", "--timeout=500s")
    with Visitor(world, kubeconfig) as visitor:
        world.until("two pods answer", lambda: len(visitor.answered) == 2, 240)


def a_destroyed_domain_is_started_again(world: Any) -> None:
    victim = pool(world)[0]
    uid = victim["metadata"]["uid"]
    world.virsh(victim["spec"]["server"], "destroy", uid)
    world.until(
        "the same machine is up again",
        lambda: any(m["metadata"]["uid"] == uid and m["status"]["boots"] == 2 and ready(m) for m in pool(world)),
    )


def a_failed_kubelet_is_restarted(world: Any) -> None:
    """Stopped by hand, systemd leaves it stopped: only who restarts it makes its node Ready again."""
    victim = pool(world)[0]
    uid, boots = victim["metadata"]["uid"], victim["status"]["boots"]
    systemctl = (victim["spec"]["server"], uid, "/bin/systemctl")
    world.until("its kubelet runs", lambda: world.in_guest(*systemctl, "is-active", "kubelet").strip() == "active")
    world.in_guest(*systemctl, "stop", "kubelet")

    def is_ready() -> bool:
        return any(m["metadata"]["uid"] == uid and ready(m) for m in pool(world))

    world.until("its node is NotReady", lambda: not is_ready())
    world.until("its node is Ready again", is_ready)
    assert [m["status"]["boots"] for m in pool(world) if m["metadata"]["uid"] == uid] == [boots]


def a_lost_disk_is_replaced(world: Any) -> None:
    victim = pool(world)[0]
    uid, server = victim["metadata"]["uid"], victim["spec"]["server"]
    script = f"for f in /var/lib/bedplate/pools/*/machines/{uid}; do rm -rf $f; done"
    world.lab().exec(server, ["sh", "-c", f"virsh -q destroy {uid}; {script}"], timeout=60)
    world.until(
        "another machine in its place",
        lambda: settled(world, 2) and uid not in {m["metadata"]["uid"] for m in pool(world)},
    )


def killed_controller_and_agents_while_scaling(world: Any, *steps: int) -> None:
    """At seeded moments of scaling the controller and the agents are killed without a warning."""
    seed = int(os.environ.get("BEDPLATE_SEED", "1"))
    dice = random.Random(seed)
    kills = int(os.environ.get("BEDPLATE_KILLS", "2"))
    for replicas in steps:
        world.bedplate("scale", "nodepool/shop-web", "--replicas", str(replicas))
        for _ in range(kills):
            time.sleep(dice.uniform(0.5, 12.0))  # the moment of the kill is the test's input, nothing is waited for
            world.controller().stop(signal.SIGKILL)
            kill_agent(world, dice.choice(["hv1", "hv2", "hv3"]))
            world.start_controller()
        world.until(f"the pool has {replicas} machines", lambda n=replicas: settled(world, n))
    uids = [m["metadata"]["uid"] for m in world.objects("machines")]
    addresses = [m["spec"]["address"] for m in world.objects("machines")]
    assert len(set(uids)) == len(uids)
    assert len(set(addresses)) == len(addresses)
    world.until("no domain is left over", lambda: domains(world) == set(uids), 120)


def kill_agent(world: Any, server: str) -> None:
    world.lab().exec(server, ["pkill", "-KILL", "-f", "bedplate.* agent"], timeout=30)


def domains(world: Any) -> set[str]:
    """UUIDs of all domains on all hypervisors."""
    return {uid for server in ("hv1", "hv2", "hv3") for uid in world.virsh(server, "list", "--all", "--uuid").split()}


def a_changed_image_is_rolled_out_while_the_service_answers(world: Any, kubeconfig: Path) -> None:
    image = next(i for i in world.objects("images") if i["spec"].get("kubernetesVersion"))
    image["metadata"] = {"name": "node-second"}
    image["spec"]["commandLine"] += " bedplate.second=1"
    image.pop("status", None)
    world.bedplate("apply", "-f", "-", stdin=json.dumps(image))
    world.bedplate("scale", "nodepool/shop-web", "--replicas", "2")
    world.until("two machines again", lambda: settled(world, 2))
    world.kubectl(kubeconfig, "rollout", "status", "deployment/hello", "--timeout=500s")
    before = {m["metadata"]["uid"] for m in pool(world)}
    changed = cluster_of(2).split("---")[1].replace("disk: 12Gi}", "disk: 12Gi, image: node-second}")
    with Visitor(world, kubeconfig) as visitor:
        world.bedplate("apply", "-f", "-", stdin=changed)
        world.until(
            "both machines have the new image",
            lambda: settled(world, 2) and all(m["spec"]["image"] == "node-second" for m in pool(world)),
            1500,
        )
    assert not before & {m["metadata"]["uid"] for m in pool(world)}
    assert visitor.good > 5
    assert visitor.longest_gap < 60, f"the Service was silent for {visitor.longest_gap:.0f} s"


def delete(world: Any) -> None:
    world.bedplate("delete", "cluster", "shop", "--wait", timeout=600)
    assert world.objects("machines") == []
    assert domains(world) == set()
    for server in ("hv1", "hv2", "hv3"):
        left = world.lab().exec(
            server, ["sh", "-c", "ls -d /var/lib/bedplate/pools/*/machines/* 2>/dev/null || true"], timeout=30
        )
        assert left.stdout.split() == []
    for disk in world.objects("retaineddisks"):
        world.bedplate("delete", "retaineddisk", disk["metadata"]["name"])
    world.until("retained disks are gone", lambda: world.objects("retaineddisks") == [], 60)
    assert subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).returncode == 0
