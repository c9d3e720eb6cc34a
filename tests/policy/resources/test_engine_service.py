from __future__ import annotations

from paceline.policy.resources import children
from paceline.policy.resources.engine_service import engine_service
from tests.api.documents import deployment, sample


def test_it_gives_each_engine_a_name_and_has_no_address_of_its_own() -> None:
    assert engine_service(deployment())["spec"]["clusterIP"] == "None"


def test_it_selects_the_engines_of_every_pool_and_nobody_else() -> None:
    md = sample("heterogeneous")
    selector = engine_service(md)["spec"]["selector"].items()
    built = children(md)
    assert [selector <= one.pod_template["metadata"]["labels"].items() for one in built.engines] == [True, True]
    assert not selector <= built.router.pod_template["metadata"]["labels"].items()


def test_it_leads_to_ports_that_engines_have() -> None:
    (pool,) = children(deployment()).engines
    have = {port["name"]: port["containerPort"] for port in pool.pod_template["spec"]["containers"][0]["ports"]}
    for port in engine_service(deployment())["spec"]["ports"]:
        assert have[port["targetPort"]] == port["port"]
