"""Lists of bare servers: what is declared of them, and how a list that is wrong is refused."""

from __future__ import annotations

import pytest

from bedplate.cli import racking
from bedplate.cli.errors import UserError
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.validation import shape, single

CSV = """name, bmc, username, password, failureDomain.rack, labels.disk, bootMac
u07, redfish+https://10.0.0.7, root, "a,b", r1, nvme, aa:bb:cc:00:00:07
u08, redfish+https://10.0.0.8, root, c, r1,,
"""


def test_a_list_becomes_servers_with_their_secrets_that_nobody_has_accepted() -> None:
    items = racking.objects(racking.read_csv(CSV, "rack.csv"))
    assert [(i.object["kind"], i.object["metadata"]["name"]) for i in items] == [
        ("Secret", "bmc-u07"),
        ("Secret", "bmc-u08"),
        ("Server", "u07"),
        ("Server", "u08"),
    ]
    assert items[0].object["stringData"] == {"username": "root", "password": "a,b"}
    for item in items[2:]:
        shaped = shape.shape(Server, item.object)
        assert not shaped.faults
        assert not shaped.unknown
        server = shape.decode(Server, shaped.value)
        assert isinstance(server, Server)
        assert not single.check(server)
        assert not server.spec.accepted
        assert server.spec.failure_domain == {"rack": "r1"}
    assert items[2].object["metadata"]["labels"] == {"disk": "nvme"}
    assert items[3].fault((), "x").line == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,bcm\n", 'rack.csv:1: there is no column "bcm" (did you mean "bmc"?)'),
        ("name,username\nu1,root\n", "rack.csv:1: the column bmc is missing"),
        ("name,bmc,credentials\nu1,a,b,c\n", "rack.csv:2: more fields than columns"),
        ("name,bmc,credentials\nu1,a,b\nu1,c,b\n", "rack.csv:3: server u1 is in line 2 already"),
        ("name,bmc\n", "rack.csv: there is no server in it"),
        ("name,bmc\nu1,a\n", "rack.csv:2: the BMC's credentials are missing"),
        ("name,bmc,credentials,username\nu1,a,s,root\n", "rack.csv:2: give credentials"),
        ("name,bmc,credentials\n,a,s\n", "rack.csv:2: name is empty"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=r"rack\.csv") as refused:
        racking.objects(racking.read_csv(text, "rack.csv"))
    assert said in str(refused.value) or said.replace(' (did you mean "bmc"?)', "") in str(refused.value)
