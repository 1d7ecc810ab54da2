"""Every message three times and in reverse, while the sagas run and once more when they have ended: each effect is there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saga_choreo import Choreography, Reject, SagaState, StepContext, all_of
from saga_choreo.ports import Outgoing
from saga_choreo.runtime.plugins import make_broker
from tests.scenarios.test_brokers import publish_raw
from tests.scenarios.world import Go, World, run, step

DONE = {"open", "left", "right", "meet", "close"}


class Repeating:
    """A real broker that is given each batch in reverse, three times over. `history` is what was meant."""

    def __init__(self, world: World, history: list[Outgoing]) -> None:
        self._real = make_broker(world.broker, prefix=world.prefix)
        self._history = history

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def publish(self, messages: Sequence[Outgoing]) -> Sequence[Exception | None]:
        self._history += messages
        answers = await self._real.publish([*reversed(messages)] * 3)
        return [*reversed(answers[: len(messages)])]


def fork() -> Choreography:
    return (
        Choreography("fork")
        .starts_with(Go)
        .step(
            step("open", "shop", Go, "fork.left", "fork.right"),
            step("left", "inventory", "fork.left", "left.done"),
            step("right", "payment", "fork.right", "right.done"),
            step("meet", "inventory", all_of("left.done", "right.done"), "meet.done"),
            step("close", "shop", "meet.done"),
        )
    )


async def refuse_some(ctx: StepContext) -> None:
    if ctx.key.startswith("bad"):
        raise Reject("no, thank you")


def test_messages_that_all_come_three_times_and_in_reverse_leave_each_effect_once(place: tuple[str, str]) -> None:
    async def scenario() -> None:
        world = World(fork(), *place, on={("close", "do"): refuse_some})
        history: list[Outgoing] = []
        for agent in world.agents.values():
            agent.configure(broker=Repeating(world, history))  # type: ignore[arg-type]  # hands on what it does not say itself
        async with world.cluster() as cluster:
            good = [await cluster["shop"].start_saga(Go(), key=f"good-{number}") for number in range(4)]
            bad = [await cluster["shop"].start_saga(Go(), key=f"bad-{number}") for number in range(4)]
            assert {await handle.wait(30) for handle in good} == {SagaState.COMPLETED}
            assert {await handle.wait(30) for handle in bad} == {SagaState.COMPENSATED}
            before = await world.effects(cluster)
            await publish_raw(world, [*reversed(history)] * 3)
            last = await cluster["shop"].start_saga(Go(), key="good-last")
            assert await last.wait(30) is SagaState.COMPLETED
            for handle in (*good, last):
                did = await world.did(cluster, handle)
                assert (len(did), set(did)) == (len(DONE), DONE)
            for handle in bad:
                did = await world.did(cluster, handle)
                undone = DONE - {"close"}
                assert (len(did), set(did)) == (2 * len(undone), undone | {f"undo {name}" for name in undone})
            after = [one for one in await world.effects(cluster) if one.saga != str(last.saga_id)]
            assert after == before, "nothing is done again, and nothing is undone"

    run(scenario(), 100)
