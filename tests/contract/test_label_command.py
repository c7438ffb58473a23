"""`bedplate label` against the real API: set, changed only when told to, removed, and refused with the remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import ApiServer

from bedplate.cli import main as cli
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.meta import ObjectMeta

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path)
    try:
        with made.store.transaction() as tx:
            tx.create(Server(metadata=ObjectMeta(name="r1", labels={"rack": "r1"})))
        yield made
    finally:
        made.close()


@pytest.fixture
def run(api: ApiServer, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str]:
        code = cli.main(["label", *argv, "--kubeconfig", str(api.kubeconfig)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def labels(api: ApiServer) -> dict[str, str]:
    return dict(api.store.get("Server", "", "r1").metadata.labels)


def test_labels_are_set_changed_and_removed(api: ApiServer, run: Run) -> None:
    assert run("server/r1", "disk=nvme", "gpu=") == (0, "server/r1 labelled: disk=nvme, gpu=, rack=r1\n")
    assert labels(api) == {"rack": "r1", "disk": "nvme", "gpu": ""}
    assert run("server", "r1", "disk=ssd", "gpu-", "--overwrite")[0] == 0
    assert labels(api) == {"rack": "r1", "disk": "ssd"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["server/r1", "rack=r2"], "server/r1 has rack=r1; add --overwrite to change it"),
        (["server/r1", "disk-"], "server/r1 has no label disk; it has rack=r1"),
        (["server/r1"], "there is no label to set or remove: bedplate label KIND/NAME KEY=VALUE KEY-"),
        (["server/r1", "a b=c"], "a b"),
        (["server/r2", "a=c"], "r2"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(api: ApiServer, run: Run, argv: list[str], said: str) -> None:
    code, text = run(*argv)
    assert code == 1
    assert said in text
    assert labels(api) == {"rack": "r1"}
