"""What lies at a disk pool's path is the pool: mounted where that is asked for, refused where it would be another one.

Each case runs in a mount namespace of its own, so that nothing stays mounted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.agent import mounts
from bedplate.model.agent_protocol import Mount, Pool

SCRIPT = """
import sys
from bedplate.agent import mounts
from bedplate.agent.volumes import DiskPool
from bedplate.model.agent_protocol import Mount, Pool
from bedplate.model.ids import ServerName, StoreId

path = sys.argv[1]
what = Mount(type="tmpfs", source="pool-of-all", options="size=64m")
pool = Pool(name="shared", path=path, type="shared", mount=what)
made = DiskPool(pool, StoreId("s"), ServerName("hv1"))
made.prepare()
made.prepare()  # again, as after a restart of the agent
assert mounts.mounted()[path] == "pool-of-all", mounts.mounted()
print(made.view().capacity_mib)
"""


def unshared(*argv: str) -> subprocess.CompletedProcess[str]:
    whole = ["unshare", "--mount", sys.executable, *argv]
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.lab
def test_a_pool_is_mounted_once_and_served(tmp_path: Path) -> None:
    """Mounting needs root, as the agent has it."""
    done = unshared("-c", SCRIPT, str(tmp_path / "pool"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "64\n"


def test_a_shared_pool_on_a_deployed_servers_root_disk_is_another_pool() -> None:
    there = {"/": "/dev/vda2", "/srv": "10.0.0.9:/all"}
    assert not mounts.in_place(Pool(name="shared", path="/var/lib/pool", type="shared"), there)
    assert mounts.in_place(Pool(name="shared", path="/srv/pool", type="shared"), there)
    assert mounts.in_place(Pool(name="local", path="/var/lib/pool"), there)
    asked = Mount(type="nfs4", source="10.0.0.9:/pool")
    assert mounts.in_place(Pool(name="shared", path="/var/lib/pool", type="shared", mount=asked), there)


def test_what_can_not_be_mounted_leaves_no_folder_to_write_into(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool = Pool(name="shared", path=str(path), type="shared", mount=Mount(type="nosuch", source="nowhere"))
    with pytest.raises(OSError, match="nowhere can't be mounted at"):
        mounts.ensure(pool)
    assert not path.exists()


def test_something_else_at_the_pools_path_is_not_the_pool() -> None:
    pool = Pool(name="shared", path="/proc", type="shared", mount=Mount(type="nfs4", source="10.0.0.9:/pool"))
    with pytest.raises(OSError, match=r"proc is mounted at /proc, not 10\.0\.0\.9:/pool: unmount it"):
        mounts.ensure(pool)


def test_names_with_spaces_are_read(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text("36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - nfs4 host:/x\\040y rw\n")
    assert mounts.mounted(info) == {"/mnt/a b": "host:/x y"}
