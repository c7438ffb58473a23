"""The unmodified kubectl against the API: what people type, and what it prints."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import POOLS, SECRETS, WAIT, ApiServer, cluster, pool, secret, served

from bedplate.drivers.artifacts.release import list_releases
from bedplate.model.kinds.cluster import Machine, MachineStatus, NodePool, NodePoolStatus
from bedplate.model.meta import Condition, ObjectMeta

_RELEASES = list_releases()
KUBECTL = str(_RELEASES[0].binaries["kubectl"]) if _RELEASES else ""
pytestmark = pytest.mark.skipif(not KUBECTL, reason="no Kubernetes release is built; `bedplate release build`")


class Kubectl:
    """kubectl with a home of its own."""

    def __init__(self, api: ApiServer, home: Path) -> None:
        self.api = api
        self.environment = {**os.environ, "HOME": str(home), "KUBECONFIG": str(api.kubeconfig), "NO_PROXY": "127.0.0.1"}

    def run(self, *argv: str, stdin: Any = None, **environment: str) -> subprocess.CompletedProcess[str]:
        text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        return subprocess.run(
            [KUBECTL, *argv],
            input=text,
            text=True,
            capture_output=True,
            timeout=3 * WAIT,
            env={**self.environment, **environment},
            check=False,
        )

    def __call__(self, *argv: str, stdin: Any = None, **environment: str) -> str:
        """Its output; it must end well."""
        done = self.run(*argv, stdin=stdin, **environment)
        assert done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *argv: str, stdin: Any = None) -> str:
        """What it says when it ends badly."""
        done = self.run(*argv, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def follow(self, *argv: str) -> Follower:
        return Follower(subprocess.Popen([KUBECTL, *argv], env=self.environment, text=True, stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT))  # fmt: skip


class Follower:
    """A kubectl that runs on: its lines as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self) -> list[str]:
        """The words of the next line; none: it ended."""
        return self._lines.get(timeout=WAIT).split()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(WAIT)
        self._thread.join(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def kubectl(api: ApiServer, tmp_path: Path) -> Kubectl:
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(api, home)


@pytest.fixture
def web(kubectl: Kubectl) -> dict[str, Any]:
    """A cluster with a pool, declared with kubectl."""
    both = {"apiVersion": "v1", "kind": "List", "items": [cluster(), pool()]}
    said = kubectl("apply", "-f", "-", stdin=both)
    assert said.splitlines() == ["cluster.bedplate.dev/shop created", "nodepool.bedplate.dev/web created"]
    return kubectl.api.get(f"{POOLS}/web")


def ready(api: ApiServer, status: str) -> None:
    """Say as the controller does that the pool is ready, or not."""
    found = api.store.get("NodePool", "default", "web")
    assert isinstance(found, NodePool)
    generation = found.metadata.generation
    truth = Condition(type="Ready", status="True" if status == "True" else "False", reason="Said",
                      observed_generation=generation)  # fmt: skip
    api.store.publish(
        msgspec.structs.replace(found, status=NodePoolStatus(observed_generation=generation, conditions=(truth,)))
    )


# --- reading ---


def test_get_in_all_its_forms(kubectl: Kubectl, web: dict[str, Any]) -> None:
    table = kubectl("get", "nodepools").splitlines()
    assert table[0].split() == ["NAME", "CLUSTER", "SUBSTRATE", "REPLICAS", "READYREPLICAS", "VERSION", "AGE"]
    assert table[1].split()[:5] == ["web", "shop", "vm", "1", "0"]
    assert "REASON" in kubectl("get", "cl", "-o", "wide").splitlines()[0]
    assert "REASON" not in kubectl("get", "cl").splitlines()[0]
    assert kubectl("get", "np,cl", "-o", "name").split() == ["nodepool.bedplate.dev/web", "cluster.bedplate.dev/shop"]
    assert kubectl("get", "np/web", "-o", "jsonpath={.spec.replicas}") == "1"
    whole = json.loads(kubectl("get", "np", "web", "-o", "json"))
    assert whole["metadata"]["uid"] == web["metadata"]["uid"]
    assert "last-applied-configuration" in kubectl("get", "np/web", "-o", "yaml")
    assert "cluster.bedplate.dev/shop" in kubectl("get", "all")
    assert kubectl("get", "np", "-A", "--sort-by=.metadata.name").splitlines()[1].split()[:2] == ["default", "web"]
    assert kubectl("get", "np", "-l", "tier=web", "-o", "name") == ""
    assert kubectl("get", "np", "--field-selector", "metadata.name=web", "-o", "name").strip()
    assert kubectl("get", "np", "--chunk-size=1", "-o", "name").strip() == "nodepool.bedplate.dev/web"
    assert 'nodepools.bedplate.dev "none" not found' in kubectl.fails("get", "np", "none")


def test_get_follows_what_changes(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    with kubectl.follow("get", "np", "-w") as watch:
        assert watch.line()[0] == "NAME"
        assert watch.line()[:4] == ["web", "shop", "vm", "1"]
        api.patch(f"{POOLS}/web", {"spec": {"replicas": 3}})
        assert watch.line()[:4] == ["web", "shop", "vm", "3"]
        api.create(POOLS, pool("db"))
        assert watch.line()[0] == "db"
    with kubectl.follow("get", "np/web", "-w", "--output-watch-events") as watch:
        assert watch.line()[0] == "EVENT"
        assert watch.line()[:2] == ["ADDED", "web"]
        api.patch(f"{POOLS}/db", {"spec": {"replicas": 3}})
        api.patch(f"{POOLS}/web", {"spec": {"replicas": 4}})
        assert watch.line()[:5] == ["MODIFIED", "web", "shop", "vm", "4"]


def test_describe_shows_the_object_and_its_events(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    found = api.store.get("NodePool", "default", "web")
    api.store.record_event(found, "Normal", "Grew", "one machine more")
    api.store.record_event(found, "Normal", "Grew", "one machine more")
    api.store.record_event(api.store.get("Cluster", "default", "shop"), "Warning", "Other", "of another object")
    said = kubectl("describe", "np/web")
    assert "Max Surge:" in said
    assert "one machine more" in said
    assert "of another object" not in said
    assert "x2" in said
    events = kubectl("get", "events")
    assert "one machine more" in events
    assert "of another object" in events
    assert "NodePool/web" in kubectl("events", "--for", "nodepool/web")
    network = kubectl("describe", "network/lan")
    assert "10.20.0.0/16" in network


def test_api_resources_and_explain(kubectl: Kubectl) -> None:
    lines = {line.split()[0]: line.split() for line in kubectl("api-resources").splitlines()}
    assert lines["nodepools"][1:] == ["np", "bedplate.dev/v1alpha1", "true", "NodePool"]
    assert lines["servers"][3] == "false"
    assert "deletecollection" in kubectl("api-resources", "-o", "wide", "--api-group=bedplate.dev")
    assert kubectl("api-versions").split() == ["bedplate.dev/v1alpha1", "v1"]
    said = kubectl("explain", "cluster.spec")
    assert "controlPlane\t<ControlPlane>" in said
    assert "resolved once into `status.version`" in said
    deep = kubectl("explain", "np.spec.machine.substrate")
    assert "auto" in deep
    assert "maxSurge\t<integer>" in kubectl("explain", "nodepool", "--recursive")
    assert "does not exist" in kubectl.fails("explain", "cluster.spec.nope")
    assert kubectl("get", "--raw", "/readyz") == "ok"
    assert "Server Version: v" in kubectl("version")


# --- declaring ---


def test_apply_creates_configures_and_leaves_alone(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    assert kubectl("apply", "-f", "-", stdin=pool()) == "nodepool.bedplate.dev/web unchanged\n"
    wanted = pool(replicas=3, labels={"tier": "web"})
    dry = kubectl("apply", "--dry-run=server", "-f", "-", stdin=wanted)
    assert dry == "nodepool.bedplate.dev/web configured (server dry run)\n"
    assert api.get(f"{POOLS}/web") == web
    assert kubectl("apply", "-f", "-", stdin=wanted) == "nodepool.bedplate.dev/web configured\n"
    api.patch(f"{POOLS}/web", {"metadata": {"labels": {"by": "hand"}}})
    kubectl("apply", "-f", "-", stdin=pool())
    kept = api.get(f"{POOLS}/web")
    assert kept["metadata"]["labels"] == {"by": "hand"}
    assert "labels" not in kept["spec"], "what the file no longer says is taken out"
    refused = kubectl.fails("apply", "-f", "-", stdin=pool(replcas=3))
    assert 'unknown field "replcas" in spec; did you mean "replicas"?' in refused
    assert kubectl("apply", "-f", "-", "--validate=ignore", stdin=pool(replcas=3)).endswith("configured\n")
    assert "spec.replicas" in kubectl.fails("apply", "-f", "-", stdin=pool(replicas=-1))
    assert "server-side apply is not supported yet" in kubectl.fails("apply", "--server-side", "-f", "-", stdin=pool())


def test_apply_and_bedplates_own_agree_on_what_was_declared(kubectl: Kubectl, api: ApiServer) -> None:
    both = {"items": [cluster(), pool(labels={"tier": "web"})]}
    assert api.call("POST", "/apis/bedplate.dev/v1alpha1/apply", both).status_code == 200
    kubectl("apply", "-f", "-", stdin=pool())
    assert "labels" not in api.get(f"{POOLS}/web")["spec"]


def test_diff_shows_what_would_change(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    assert kubectl.run("diff", "-f", "-", stdin=pool()).returncode == 0
    differs = kubectl.run("diff", "-f", "-", stdin=pool(replicas=3))
    assert differs.returncode == 1, differs.stderr
    assert "-  replicas: 1\n" in differs.stdout
    assert "+  replicas: 3\n" in differs.stdout
    assert api.get(f"{POOLS}/web") == web


def test_create_and_replace(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    made = kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=pool("db"))
    assert "maxSurge: 1" in made
    assert kubectl("create", "-f", "-", stdin=pool("db")) == "nodepool.bedplate.dev/db created\n"
    assert "already exists" in kubectl.fails("create", "-f", "-", stdin=pool("db"))
    assert kubectl("replace", "-f", "-", stdin=pool("db", replicas=5)) == "nodepool.bedplate.dev/db replaced\n"
    assert api.get(f"{POOLS}/db")["spec"]["replicas"] == 5
    assert kubectl("create", "namespace", "team") == "namespace/team created\n"
    missing = kubectl.fails("create", "-n", "tem", "-f", "-", stdin=cluster())
    assert 'did you mean "team"?' in missing


def test_edit_patch_label_annotate_and_scale(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    def seen() -> dict[str, Any]:
        return api.get(f"{POOLS}/web")

    assert kubectl("edit", "np/web", KUBE_EDITOR="sed -i 's/replicas: 1/replicas: 4/'").endswith("edited\n")
    assert seen()["spec"]["replicas"] == 4
    kubectl("patch", "np/web", "--type=merge", "-p", '{"spec":{"replicas":5}}')
    kubectl("patch", "np/web", "--type=json", "-p", '[{"op":"test","path":"/spec/replicas","value":5}]')
    kubectl("patch", "np/web", "-p", '{"spec":{"spread":"rack"}}')
    assert (seen()["spec"]["replicas"], seen()["spec"]["spread"]) == (5, "rack")
    kubectl("label", "np/web", "tier=web")
    assert "already has a value" in kubectl.fails("label", "np/web", "tier=db")
    kubectl("label", "np", "--all", "tier=db", "--overwrite")
    kubectl("annotate", "np/web", "why=because")
    assert seen()["metadata"]["labels"] == {"tier": "db"}
    assert seen()["metadata"]["annotations"]["why"] == "because"
    kubectl("label", "np/web", "tier-")
    assert "labels" not in seen()["metadata"]
    assert kubectl("scale", "nodepool/web", "--replicas=6") == "nodepool.bedplate.dev/web scaled\n"
    kubectl("scale", "nodepool/web", "--replicas=7", "--current-replicas=6")
    assert seen()["spec"]["replicas"] == 7
    assert "Expected replicas to be 1, was 7" in kubectl.fails(
        "scale", "np/web", "--replicas=8", "--current-replicas=1"
    )
    assert "could not find" in kubectl.fails("scale", "cluster/shop", "--replicas=3")


def test_machines_are_only_looked_at(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    said = Condition(type="Ready", status="True", reason="NodeReady", observed_generation=9)
    meta = ObjectMeta(name="web-1", namespace="default")
    api.store.publish(Machine(metadata=meta, status=MachineStatus(observed_generation=9, conditions=(said,))))
    assert kubectl("get", "machines", "-o", "name") == "machine.bedplate.dev/web-1\n"
    assert "condition met" in kubectl("wait", "--for=condition=Ready", "machine/web-1", "--timeout=10s")
    assert "node pool" in kubectl.fails("label", "machine/web-1", "a=b")


# --- waiting and deleting ---


def test_wait_for_a_condition(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    ready(api, "False")
    assert "timed out" in kubectl.fails("wait", "--for=condition=Ready", "np/web", "--timeout=1s")
    with kubectl.follow("wait", "--for=condition=Ready", "np/web", "--timeout=60s") as waiting:
        ready(api, "True")
        assert waiting.line() == ["nodepool.bedplate.dev/web", "condition", "met"]
    assert "condition met" in kubectl("wait", "--for=jsonpath={.spec.replicas}=1", "np/web", "--timeout=10s")


def test_delete_waits_for_the_end(kubectl: Kubectl, api: ApiServer, web: dict[str, Any]) -> None:
    with kubectl.follow("get", "np", "-w", "--output-watch-events", "--no-headers") as watch:
        assert watch.line()[0] == "ADDED"
        assert (
            kubectl("delete", "np/web", "--wait=false")
            == 'nodepool.bedplate.dev "web" deleted from default namespace\n'
        )
        assert watch.line()[0] == "MODIFIED"
        assert api.get(f"{POOLS}/web")["metadata"]["deletionTimestamp"]
        with (
            kubectl.follow("wait", "--for=delete", "np/web", "--timeout=60s") as waiting,
            kubectl.follow("delete", "np/web") as deleting,
        ):
            assert deleting.line()[:2] == ["nodepool.bedplate.dev", '"web"']
            api.store.finalise("NodePool", "default", "web", "bedplate.dev/cleanup")
            assert waiting.process.wait(WAIT) == 0
            assert deleting.process.wait(WAIT) == 0
        assert watch.line()[0] == "DELETED"
    kubectl("delete", "np/web", "--ignore-not-found")
    assert "not found" in kubectl.fails("delete", "np/web")
    kubectl("create", "namespace", "team")
    assert kubectl("delete", "namespace", "team", "--timeout=30s") == 'namespace "team" deleted\n'
    assert "always is there" in kubectl.fails("delete", "namespace", "default")


# --- secrets ---


def test_secrets_go_in_by_every_way_and_out_by_none(kubectl: Kubectl, api: ApiServer) -> None:
    assert kubectl("create", "secret", "generic", "bmc", "--from-literal=password=hunter2") == "secret/bmc created\n"
    assert api.store.user_secret("default", "bmc") == {"password": "aHVudGVyMg=="}
    assert kubectl("apply", "-f", "-", stdin=secret("user", password="hunter2")) == "secret/user created\n"
    again = kubectl.run("apply", "-f", "-", stdin=secret("user", password="hunter3"))
    assert (again.returncode, again.stdout) == (0, "secret/user configured\n")
    assert api.store.user_secret("default", "user") == {"password": "aHVudGVyMw=="}
    kubectl("label", "secret", "bmc", "tier=db")
    kubectl("patch", "secret", "bmc", "-p", '{"stringData":{"more":"x"}}')
    assert api.store.user_secret("default", "bmc") == {"password": "aHVudGVyMg==", "more": "eA=="}
    shown = kubectl("get", "secrets", "-o", "yaml") + kubectl("describe", "secrets") + str(api.get(SECRETS))
    for hidden in ("hunter", "aHVudGVy", "last-applied"):
        assert hidden not in shown
    kubectl("delete", "secret", "bmc", "user")
    assert api.store.user_secret("default", "bmc") is None
