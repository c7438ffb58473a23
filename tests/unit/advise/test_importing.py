"""Importing: kubectl's nodes and pods, lists in CSV, and Bedplate's own objects, with the faults they come with."""

from __future__ import annotations

from typing import Any

import pytest

from bedplate.advise.fleet import FleetError
from bedplate.advise.importing import grouping, kubectl, lists, live
from bedplate.advise.importing.grouping import Seen


def node(name: str, cpu: str, memory: str, *, plane: bool = False, **capacity: str) -> dict[str, Any]:
    labels = {"node-role.kubernetes.io/control-plane": ""} if plane else {"topology.kubernetes.io/zone": "a"}
    status = {
        "capacity": {"cpu": cpu, "memory": memory, **capacity},
        "nodeInfo": {"kubeletVersion": "v1.35.3"},
    }
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def pod(name: str, owner: tuple[str, str] | None, requests: dict[str, str], **more: Any) -> dict[str, Any]:
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    spec = {"containers": [{"resources": {"requests": requests}}], **more.pop("spec", {})}
    meta = {"name": name, "namespace": more.pop("namespace", "default"), "ownerReferences": owners}
    return {"kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": more.pop("phase", "Running")}}


ITEMS = [
    node("cp1", "4", "8010000Ki", plane=True),
    node("n1", "64", "527926272Ki", **{"nvidia.com/gpu": "4"}),
    node("n2", "64", "527926272Ki", **{"nvidia.com/gpu": "4"}),
    pod("web-7d9f8c6b5-abcde", ("ReplicaSet", "web-7d9f8c6b5"), {"cpu": "500m", "memory": "1Gi"}),
    pod("web-7d9f8c6b5-fghij", ("ReplicaSet", "web-7d9f8c6b5"), {"cpu": "500m", "memory": "1Gi"}),
    pod(
        "db-0",
        ("StatefulSet", "db"),
        {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"},
        namespace="data",
        spec={"volumes": [{"persistentVolumeClaim": {"claimName": "x"}}]},
    ),
    pod("lonely", None, {}),
    pod("agent-x", ("DaemonSet", "agent"), {}),
    pod("report-1", ("Job", "report"), {"cpu": "1", "memory": "1Gi"}),
    pod("done", ("ReplicaSet", "web-7d9f8c6b5"), {"cpu": "9", "memory": "1Gi"}, phase="Succeeded"),
]


def test_pods_become_workloads_of_what_owns_them() -> None:
    read = kubectl.Read({"items": ITEMS}, "shop.json")
    found = read.cluster("shop", shape=read.shape())
    work = {w.name: w for w in found.workloads}
    assert set(work) == {"web", "data-db", "lonely"}
    assert (work["web"].replicas, work["web"].cpu, work["web"].memory) == (2, 0.5, "1Gi")
    assert work["data-db"].stateful
    assert work["data-db"].volume
    assert work["data-db"].devices == ("gpu",)
    assert found.control_plane == 1
    assert found.kubernetes == "1.35"
    assert [r for r in read.remarks if "lonely" in r and "requests nothing" in r]
    assert work["lonely"].cpu == 0.1


def test_nodes_that_are_servers_become_models() -> None:
    models = grouping.models(kubectl.Read({"items": ITEMS}, "shop.json").servers())
    assert [(m.count, m.cpus, m.memory, m.devices) for m in models] == [
        (2, 64, "504Gi", ("gpu",)),
        (1, 4, "7822Mi", ()),
    ]
    assert models[0].place == {"room": "a"}


def test_a_file_that_is_no_list_says_how_one_is_made() -> None:
    for raw in ([], {"kind": "Pod"}, None):
        with pytest.raises(FleetError, match="kubectl get nodes,pods -A -o json"):
            kubectl.Read(raw, "x.json")


def test_a_quantity_that_is_none_is_named_with_its_pod() -> None:
    read = kubectl.Read({"items": [pod("p", None, {"cpu": "two", "memory": "1Gi"})]}, "x.json")
    with pytest.raises(FleetError, match=r"x.json: pod p: requests.cpu: 'two'"):
        read.cluster("c", shape=None)


def test_equal_servers_are_one_model_and_memory_that_firmware_keeps_makes_no_other() -> None:
    seen = [Seen(name=f"s{n}", cpus=64, memory_mib=515_000 + n, place={"rack": f"r{n % 2}"}) for n in range(4)]
    found = grouping.models(seen)
    assert [(m.count, m.memory) for m in found] == [(4, "504Gi")]
    assert found[0].place == {"rack": ("r0", "r1")}


SERVERS = """\
name,count,cpus,memory,price,place.rack,power.idle,power.full
r650,10,64,512Gi,"12000 EUR",r1 r2,160 W,0.77 kW
gpu,2,96,1Ti,,r1,,
"""


def test_servers_are_read_from_a_list() -> None:
    found = lists.servers(SERVERS, "servers.csv")
    assert [(m.name, m.count, m.cpus) for m in found] == [("r650", 10, 64), ("gpu", 2, 96)]
    assert found[0].place == {"rack": ("r1", "r2")}
    assert found[0].power is not None
    assert found[0].power.full.mid == 770
    assert found[1].price is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,count,cpus\na,1,2\n", [":1: the column memory is missing"]),
        ("name,count,cpus,memry\na,1,2,4Gi\n", ['no column "memry"', 'did you mean "memory"']),
        ("name,count,cpus,memory\n", ["nothing in it"]),
        ("name,count,cpus,memory\na,1,2,4Gi,9\n", [":2: more fields than columns"]),
        ("name,count,cpus,memory\na,1,2,4GB\n", [":2: memory: '4GB'", "write 4Gi"]),
        ("name,count,cpus,memory\na,x,2,4Gi\nb,1,y,4Gi\n", [":2: count", "a whole number", ":3: cpus"]),
        ("name,count,cpus,memory\na,1,2,4Gi\na,3,2,4Gi\n", [":3: a is there already"]),
        ("name,count,cpus,memory,price\na,1,2,4Gi,-4\n", [":2: price", "out of bounds"]),
    ],
)
def test_what_is_wrong_in_a_list_is_told_with_its_line(text: str, words: list[str]) -> None:
    with pytest.raises(FleetError) as refused:
        lists.servers(text, "servers.csv")
    for word in words:
        assert word in str(refused.value)


def test_workloads_are_read_from_a_list_with_their_clusters() -> None:
    head = "cluster,name,replicas,cpu,memory,stateful,use.mean,use.peak"
    text = f"{head}\nshop,web,20,2,4Gi,no,0.3,70 %\nml,x,1,8,9Gi,yes,,\n"
    found = lists.clusters(text, "w.csv")
    assert [(c.name, [w.name for w in c.workloads]) for c in found] == [("shop", ["web"]), ("ml", ["x"])]
    assert found[0].workloads[0].use is not None
    assert found[0].workloads[0].use.peak.mid == 0.7
    assert found[1].workloads[0].stateful


def named(name: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": status}


def test_bedplates_own_objects_become_a_fleet() -> None:
    servers = [
        named("hv1", {"failureDomain": {"rack": "r1"}}, cpus=32, memory="64Gi"),
        named("bm1", {}, metal={"cpus": 16, "memory": "32Gi", "product": "R650"}),
        named("new", {}),
    ]
    seen, remarks = live.servers(servers)
    assert [(s.name, s.cpus, s.kind) for s in seen] == [("hv1", 32, ""), ("bm1", 16, "R650")]
    assert remarks == ["server new: its size is not known yet; it is left out"]
    clusters = [named("shop", {"kubernetes": "1.35.3", "controlPlane": {"replicas": 3}})]
    pools = [
        named("shop-web", {"cluster": "shop", "replicas": 4, "machine": {"cpu": 4, "memory": "8Gi"}}),
        named("shop-db", {"cluster": "shop", "replicas": 2, "machine": {"substrate": "metal"}}),
    ]
    found = live.clusters(clusters, pools)
    assert found[0].kubernetes == "1.35"
    assert [(w.name, w.replicas, w.cpu, w.substrate) for w in found[0].workloads] == [
        ("shop-web", 4, 4, "auto"),
        ("shop-db", 2, 2, "metal"),
    ]


def _measurement(name: str, finished: str, emulated: bool = False) -> dict[str, Any]:
    def target(kind: str, values: list[float]) -> dict[str, Any]:
        samples = [{"value": v} for v in values]
        metric = {"name": "cpu-one", "unit": "events/s", "better": "higher", "samples": samples}
        vm = kind == "machine/a"
        return {"target": kind, "server": "hv1", "substrate": "vm" if vm else "server", "emulated": emulated and vm,
                "metrics": [metric]}  # fmt: skip

    targets = [target("server/hv1", [100.0] * 5), target("machine/a", [95.0] * 5)]
    status = {"phase": "Complete", "finished": finished, "targets": targets}
    return {"kind": "Measurement", "apiVersion": "bedplate.dev/v1alpha1", "metadata": {"name": name}, "status": status}


def test_the_newest_measurement_that_may_be_compared_is_taken() -> None:
    items = [
        _measurement("old", "2026-01-01T00:00:00Z"),
        _measurement("new", "2026-03-01T00:00:00Z"),
        _measurement("lab", "2026-05-01T00:00:00Z", emulated=True),
        {**_measurement("half", "2026-06-01T00:00:00Z"), "status": {"phase": "Running"}},
    ]
    found, remarks = live.overheads(items)
    assert found["cpu"].origin == "measurement new, cpu-one, machine/a, 2026-03-01"
    assert found["cpu"].times.mid == 100 / 95
    assert [r.split(",")[0] for r in remarks] == ["measurement lab: machine/a ran under software emulation (TCG)"]
    assert live.overheads([]) == ({}, [])
