"""The embedded cluster on fake pods: roles, fleet file, restarts, and what it says when it can't go on."""

import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from paceline.api import wire
from paceline.clock import WallClock
from paceline.errors import EngineError, LocalRuntimeError
from paceline.local.cluster import LocalCluster
from paceline.local.guard import Guard
from paceline.local.kubelet import Launch, PodPhase
from paceline.local.monitor import Monitor
from paceline.local.plan import LocalPlan, PodPlan
from paceline.local.ports import PortAllocator
from paceline.local.probe import PodClient
from paceline.local.table import starting_line, starting_page
from paceline.policy.lifecycle.orders import Orders
from tests.local.support import fake_pod
from tests.local.test_table import text
from tests.processes import is_running
from tests.waiting import until

P, D = wire.Role.PREFILL, wire.Role.DECODE


class Setting:
    def __init__(self, cluster: LocalCluster, client: PodClient, fleet_path: Path) -> None:
        self.cluster = cluster
        self.client = client
        self._fleet_path = fleet_path

    def fleet(self) -> dict[str, wire.EngineEndpoint]:
        fleet = wire.decode(wire.Fleet, self._fleet_path.read_bytes(), source="fleet")
        return {engine.name: engine for engine in fleet.engines}

    def ready(self) -> dict[str, wire.Role]:
        return {name: e.role for name, e in self.fleet().items() if e.state is wire.EngineState.READY}

    async def up(self) -> None:
        self.cluster.start()
        await self.cluster.wait_ready(lambda: None, 0.01)


Make = Callable[..., AbstractAsyncContextManager[Setting]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    @asynccontextmanager
    async def setting(
        prefill: int = 1, decode: int = 1, *, router: str = "ready", drain_first: bool = False, **modes: str
    ) -> AsyncIterator[Setting]:
        ports = PortAllocator("127.0.0.1", random.Random())

        def pod(name: str, mode: str) -> PodPlan:
            def launch() -> Launch:
                api, admin = ports.take(), ports.take()
                env = {"FAKE_MODE": mode, "FAKE_ADMIN_PORT": str(admin), "FAKE_API_PORT": str(api)}
                env["FAKE_BUSY"] = str(tmp_path / f"{name}.busy")
                return Launch(fake_pod(**env), wire.EnginePorts(api=api, admin=admin), lambda: ports.release(api))

            return PodPlan(name, launch, 20.0, pool="pool", revision="r1")

        fleet_path = tmp_path / "fleet.json"
        plan = LocalPlan(
            engines=tuple(pod(f"e{n}", modes.get(f"e{n}", "ready")) for n in range(prefill + decode)),
            router=pod("router", router),
            endpoint_port=1,
            wanted={"pool": {P: prefill, D: decode}},
            fleet_path=fleet_path,
            notes=(),
            more=lambda _, number: pod(f"e{number}", modes.get(f"e{number}", "ready")),
            drain_seconds=5.0,
            drain_first=drain_first,
        )
        with Guard() as guard:
            async with aiohttp.ClientSession() as session:
                client = PodClient(session)
                cluster = LocalCluster(
                    plan,
                    log_dir=tmp_path / "logs",
                    probe=client.ready,
                    idle=client.idle,
                    guard=guard,
                    clock=WallClock(),
                )
                try:
                    yield Setting(cluster, client, fleet_path)
                finally:
                    cluster.kill()
                    await cluster.stop()

    return setting


async def test_ready_engines_get_the_wanted_roles_in_the_fleet_file(make: Make) -> None:
    async with make(2, 1) as setting:
        await setting.up()
        await until(lambda: sorted(setting.ready().values()) == [D, P, P])
        engine = setting.fleet()["e0"]
        assert engine.revision == "r1"
        assert engine.start_id == "e0-1"
        assert engine.kv_events is not None
        assert sorted(view.role or "" for view in setting.cluster.engines) == [D, P, P]


async def test_an_engine_that_is_killed_leaves_the_fleet_and_comes_back_with_its_role(make: Make) -> None:
    async with make(2, 2) as setting:
        await setting.up()
        await until(lambda: len(setting.ready()) == 4)
        before = setting.ready()
        victim = next(view.status for view in setting.cluster.engines if before[view.status.name] is P)
        os.kill(victim.pid or 0, signal.SIGKILL)
        await until(lambda: victim.name not in setting.ready())
        await until(lambda: setting.ready() == before)
        assert setting.fleet()[victim.name].start_id == f"{victim.name}-2"


async def test_a_cluster_with_one_of_two_engines_serves_both_roles_with_it(make: Make) -> None:
    async with make(1, 1, e1="never") as setting:
        setting.cluster.start()
        await until(lambda: setting.ready() == {"e0": wire.Role.BOTH})


async def test_an_engine_that_never_starts_ends_the_start_with_its_last_words(make: Make) -> None:
    async with make(1, 1, e0="crash") as setting:
        with pytest.raises(EngineError, match=r"(?s)e0: it never got ready.*no more of this.*e0\.log"):
            await setting.up()


async def test_engines_that_all_fail_are_told_of_once(make: Make) -> None:
    async with make(2, 1, e0="crash", e1="crash", e2="crash", router="never") as setting:
        setting.cluster.start()
        await until(lambda: all(view.status.phase is PodPhase.FAILED for view in setting.cluster.engines))
        with pytest.raises(EngineError, match="So it went with 2 more"):
            setting.cluster.check()


async def test_one_failed_engine_does_not_end_a_cluster_that_serves(make: Make) -> None:
    async with make(1, 1, e0="crash") as setting:
        setting.cluster.start()
        await until(lambda: setting.cluster.engines[0].status.phase is PodPhase.FAILED)
        setting.cluster.check()
        with pytest.raises(EngineError):
            setting.cluster.check(starting=True)


async def test_while_the_fleet_can_not_be_written_the_last_one_holds_and_then_the_next_is_told(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as setting:
        await setting.up()
        path, engine = setting.cluster.plan.fleet_path, setting.cluster.engines[0]
        before = setting.fleet()[engine.status.name].start_id
        path.unlink()
        path.mkdir()
        os.kill(engine.status.pid or 0, signal.SIGKILL)
        await until(lambda: "The router goes on with the last fleet" in caplog.text)
        setting.cluster.check()
        path.rmdir()
        await until(lambda: path.exists() and len(setting.ready()) == 2)
        assert setting.fleet()[engine.status.name].start_id != before


async def test_a_fleet_file_that_could_never_be_written_is_an_error(make: Make) -> None:
    async with make() as setting:
        setting.cluster.plan.fleet_path.mkdir()
        with pytest.raises(LocalRuntimeError, match="Can't write"):
            setting.cluster.start()


async def test_orders_change_roles_without_a_restart(make: Make) -> None:
    async with make(1, 2) as setting:
        await setting.up()
        await until(lambda: len(setting.ready()) == 3)
        before = setting.ready()
        one = next(name for name, role in before.items() if role is D)
        setting.cluster.obey(Orders({P: 2, D: 1}, keeps_roles=True, roles={one: P}))
        assert setting.ready() == {**before, one: P}
        assert {engine.start_id for engine in setting.fleet().values()} == {"e0-1", "e1-1", "e2-1"}


async def test_orders_keep_the_roles_that_engines_have_whatever_the_counts(make: Make) -> None:
    async with make(1, 2) as setting:
        await setting.up()
        await until(lambda: len(setting.ready()) == 3)
        before = setting.ready()
        setting.cluster.obey(Orders({P: 2, D: 1}, keeps_roles=True))
        assert setting.ready() == before


async def test_an_engine_that_is_to_drain_first_gets_nothing_new_until_it_has_its_new_role(
    make: Make, tmp_path: Path
) -> None:
    async with make(1, 3, drain_first=True) as setting:
        await setting.up()
        await until(lambda: len(setting.ready()) == 4)
        chosen = next(name for name, role in setting.ready().items() if role is D)
        busy = tmp_path / f"{chosen}.busy"
        busy.touch()
        setting.cluster.obey(Orders({P: 2, D: 2}, keeps_roles=True, roles={chosen: P}))
        engine = setting.fleet()[chosen]
        assert (engine.role, engine.state) == (D, wire.EngineState.DRAINING)
        assert {view.next_role for view in setting.cluster.engines} == {None, P}
        # Later orders, which do not name it any more, leave it on its way.
        setting.cluster.obey(Orders({P: 2, D: 2}, keeps_roles=True))
        assert chosen not in setting.ready()
        busy.unlink()
        await until(lambda: setting.ready().get(chosen) is P)
        assert setting.fleet()[chosen].start_id == engine.start_id


async def test_orders_start_engines_with_names_of_their_own_and_give_them_the_role_that_is_missing(make: Make) -> None:
    async with make(1, 1) as setting:
        await setting.up()
        setting.cluster.obey(Orders({P: 1, D: 3}, keeps_roles=True))
        await until(lambda: sorted(setting.ready().values()) == [D, D, D, P])
        assert set(setting.ready()) == {"e0", "e1", "e2", "e3"}


async def test_an_engine_that_goes_is_told_first_then_stopped_and_the_one_that_was_named_goes(make: Make) -> None:
    async with make(1, 2) as setting:
        await setting.up()
        await until(lambda: len(setting.ready()) == 3)
        one = next(name for name, role in setting.ready().items() if role is D)
        pid = next(view.status.pid for view in setting.cluster.engines if view.status.name == one)
        setting.cluster.obey(Orders({P: 1, D: 1}, keeps_roles=True, leaving=frozenset({one})))
        assert setting.fleet()[one].state is wire.EngineState.DRAINING
        await until(lambda: one not in setting.fleet())
        assert not is_running(pid or 0)
        assert sorted(setting.ready().values()) == [D, P]


async def test_an_engine_that_never_got_ready_is_replaced_when_orders_say_so(make: Make) -> None:
    async with make(1, 1, e1="never") as setting:
        setting.cluster.start()
        await until(lambda: setting.ready() == {"e0": wire.Role.BOTH})
        setting.cluster.obey(Orders({P: 1, D: 1}, keeps_roles=True, leaving=frozenset({"e1"})))
        await until(lambda: set(setting.ready()) == {"e0", "e2"})
        assert sorted(setting.ready().values()) == [D, P]


async def test_a_stop_leaves_no_process(make: Make) -> None:
    async with make(1, 1) as setting:
        await setting.up()
        pids = [view.status.pid or 0 for view in setting.cluster.engines] + [setting.cluster.router.pid or 0]
        await setting.cluster.stop()
        assert not any(map(is_running, pids))


async def test_the_page_of_a_starting_cluster_says_what_it_waits_for(make: Make) -> None:
    async with make(1, 1, e1="never") as setting:
        setting.cluster.start()
        await until(lambda: setting.cluster.engines[0].status.phase is PodPhase.READY)
        await until(lambda: setting.cluster.engines[1].status.reason == "loading weights")
        await until(lambda: setting.cluster.router.phase is PodPhase.READY)
        assert "loading weights" in text(starting_page(setting.cluster, 1.0))
        assert starting_line(setting.cluster, 1.0) == "  1.0 s  2 of 3 pods ready  (e1: loading weights)"


async def test_the_monitor_samples_engines_and_adds_up_their_lives(make: Make) -> None:
    async with make(1, 1) as setting:
        await setting.up()
        monitor = Monitor(setting.cluster, setting.client, WallClock())
        sample = await monitor.sample()
        assert [engine.metrics.running for engine in sample.engines if engine.metrics] == [3, 3]
        assert setting.cluster.loads == {"e0": 3.0, "e1": 3.0}
        assert monitor.prefix_totals() == (20.0, 8.0)
        os.kill(setting.cluster.engines[0].status.pid or 0, signal.SIGKILL)
        await until(lambda: setting.cluster.engines[0].status.starts == 2)
        await setting.cluster.wait_ready(lambda: None, 0.01)
        await monitor.sample()
        assert monitor.prefix_totals() == (30.0, 12.0)
