"""The script that makes a cluster by hand: its inputs, and its course in a world of fake tools."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench import by_hand_inputs as inputs

TOOLS = ("jq", "split", "base64", "awk")
SCRIPT = Path(inputs.__file__).parent / "by_hand.sh"
needs_tools = pytest.mark.skipif(any(shutil.which(t) is None for t in TOOLS), reason=f"needs {', '.join(TOOLS)}")

LAB: dict[str, Any] = {
    "phase": "up",
    "network": {"cidr": "10.88.0.0/24", "machines": [100, 199], "vips": [200, 219]},
    "hypervisors": [{"name": f"hv{n}", "uri": f"qemu:///system?socket=/lab/hv{n}"} for n in (1, 2, 3)],
}
NETWORK = {"bridge": "br0", "mtu": 1500, "gateway": "10.88.0.1", "nameServers": ["10.88.0.1"]}
FILES = {"disk": "disk.qcow2", "kernel": "vmlinuz", "initrd": "initrd"}
IMAGE: dict[str, Any] = {
    "metadata": {"name": "node-1.35.3"},
    "spec": {
        **{what: {"digest": f"sha256:{n * 64}"} for what, n in zip(FILES, "abc", strict=True)},
        "format": "qcow2",
        "commandLine": "root=LABEL=root",
        "kubernetesVersion": "1.35.3",
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs as the lab gives them, with files of an image that is no image."""
    lab = LAB | {"folder": str(tmp_path / "lab")}
    (tmp_path / "lab" / "shared").mkdir(parents=True)
    state = {"kvm": False, "hypervisors": {"hv1": {"process": {"pid": 4711}}}}
    (tmp_path / "lab" / "state.json").write_text(json.dumps(state))
    cache = {what: tmp_path / name for what, name in FILES.items()}
    for path in cache.values():
        path.write_text("x")

    def told(*argv: str) -> Any:
        if argv[0] == "release":
            return {"kubectl": "kubectl"}
        return {"items": [{"spec": NETWORK} if argv[1] == "networks" else IMAGE]}

    monkeypatch.setattr(inputs, "_bedplate", told)
    monkeypatch.setattr(inputs, "_image_files", lambda _image: cache)  # pyright: ignore[reportUnknownLambdaType]
    made = tmp_path / "inputs"
    made.mkdir()
    inputs.write(made, lab, "1.35.3")
    return made


def test_inputs_are_the_demo_s_machines_in_the_shared_pool(folder: Path) -> None:
    shapes = {}
    for short in ("cp", "w1", "w2"):
        root = ElementTree.parse(folder / f"{short}.xml").getroot()
        shapes[short] = (root.findtext("vcpu"), root.findtext("memory"))
        disk = root.find("devices/disk/source")
        assert disk is not None
        assert disk.attrib["file"] == f"/var/lib/bedplate/pools/shared/by-hand/{short}.qcow2"
        with tarfile.open(folder / f"{short}.tar") as payload:
            names = payload.getnames()
            assert ("pki/ca.key" in names) == (short == "cp")
            configured = payload.extractfile("kubeadm.yaml")
            assert configured is not None
            text = configured.read().decode()
            assert ("InitConfiguration" in text) == (short == "cp")
            assert "10.88.0.219:6443" in text
    assert shapes == {"cp": ("2", "2048"), "w1": ("1", "1536"), "w2": ("1", "1536")}
    assert "bedplate:node-routes" in (folder / "addon.yaml").read_text()
    assert "https://10.88.0.219:6443" in (folder / "kubeconfig").read_text()
    environment = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
    assert shlex.split(environment["JOINS"]) == ["in-turn"]
    assert shlex.split(environment["NODE_w2"]) == ["by-hand-w2"]


VIRSH = r"""#!/bin/bash
# A libvirt whose guests answer at once and do all they are told. Remembers the calls.
printf '%s\n' "$*" >>"$WORLD/virsh.log"
while [ "${1#-}" != "$1" ]; do [ "$1" = -c ] && shift; shift; done
case $1 in
start) touch "$WORLD/running.$2" ;;
destroy) rm -f "$WORLD/running.$2" ;;
qemu-agent-command)
    [ -e "$WORLD/running.$4" ] && [ "${4#*silent}" = "$4" ] || exit 1
    case $5 in
    *guest-exec-status*) printf '{"return":{"exited":true,"exitcode":%s,"out-data":"%s"}}\n' "${EXITS:-0}" ZG9uZQo= ;;
    *guest-exec*) printf '{"return":{"pid":7}}\n' ;;
    *guest-file-open*) printf '{"return":1000}\n' ;;
    *guest-file-write*) jq -r '.arguments."buf-b64"' <<<"$5" | base64 -d >>"$WORLD/given.$4"
        printf '{"return":{}}\n' ;;
    *) printf '{"return":{}}\n' ;;
    esac ;;
esac
"""
NSENTER = '#!/bin/bash\nprintf \'%s\\n\' "$*" >>"$WORLD/nsenter.log"\n'
QEMU_IMG = '#!/bin/bash\nprintf \'%s\\n\' "$*" >>"$WORLD/qemu-img.log"\ntouch "${@: -2:1}"\n'


def run(folder: Path, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    fakes, world = tmp_path / "fakes", tmp_path / "world"
    for made in (fakes, world, tmp_path / "tmp"):
        made.mkdir(exist_ok=True)
    for name, text in (("virsh", VIRSH), ("nsenter", NSENTER), ("qemu-img", QEMU_IMG)):
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    known = {"PATH": f"{fakes}:{os.environ['PATH']}", "WORLD": str(world), "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run(
        [str(SCRIPT), "-o", str(tmp_path / "result.json")],
        env=known | {"INPUTS": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def nothing_left(tmp_path: Path) -> bool:
    return not list((tmp_path / "tmp").iterdir()) and not list((tmp_path / "lab" / "shared").iterdir())


@needs_tools
@pytest.mark.parametrize("joins", ["in-turn", "together"])
def test_it_goes_from_nothing_to_ready_and_takes_it_all_away(folder: Path, tmp_path: Path, joins: str) -> None:
    done = run(folder, tmp_path, JOINS=joins)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    reached = {p["what"]: p["seconds"] for p in result["phases"]}
    assert next(iter(reached)) == "image is in the pool"
    assert list(reached)[-1] == "all nodes are Ready"
    assert {"cp answers", "cp: kubeadm init has ended", "w1: kubeadm join has ended", "w2 runs"} <= reached.keys()
    assert result["seconds"] == reached["all nodes are Ready"]
    log = (tmp_path / "world" / "virsh.log").read_text()
    for short in ("cp", "w1", "w2"):
        payloads = [p for p in (tmp_path / "world").glob("given.*") if f"by-hand-{short}" in p.name]
        assert [p.read_bytes() for p in payloads] == [(folder / f"{short}.tar").read_bytes()]
        assert f"undefine default-by-hand-{short}" in log
    assert not list((tmp_path / "world").glob("running.*"))
    kubectl = (tmp_path / "world" / "nsenter.log").read_text()
    assert "--target 4711 --net" in kubectl
    assert "wait --for=condition=Ready node/by-hand-w2" in kubectl
    assert nothing_left(tmp_path)


@needs_tools
def test_what_fails_ends_it_with_the_reason_and_takes_it_all_away(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path, EXITS="3")
    assert done.returncode == 1
    assert "by hand: /bin/sh in cp failed" in done.stderr
    assert not list((tmp_path / "world").glob("running.*"))
    assert not (tmp_path / "result.json").exists()
    assert nothing_left(tmp_path)


@needs_tools
def test_a_guest_that_never_answers_is_given_up(folder: Path, tmp_path: Path) -> None:
    environment = (folder / "env").read_text().replace("default-by-hand-cp", "default-by-hand-silent")
    (folder / "env").write_text(environment)
    done = run(folder, tmp_path, BOOT_SECONDS="1")
    assert done.returncode == 1
    assert "does not answer after 1 s" in done.stderr
    assert nothing_left(tmp_path)


def test_the_script_is_for_users_to_run() -> None:
    assert SCRIPT.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
