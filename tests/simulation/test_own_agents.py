"""A user's own agents in virtual time: the example holds, and what is wrong in a handler is found."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from examples.order_processing import inventory, order, payment, shipping, simulation
from saga_choreo import Agent, Choreography, ChoreographyStep, Event, Reject, StepContext
from saga_choreo.cli.main import cli
from saga_choreo.errors import ConfigurationError
from saga_choreo.model.states import SagaState
from saga_choreo.runtime.timing import Limits
from saga_choreo.testing.simulator.layers import run_one
from saga_choreo.testing.simulator.settings import Check, Fetch, OwnAgents, Settings, Verdict
from saga_choreo.testing.simulator.simulate import simulate

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = OwnAgents((order.agent, inventory.agent, payment.agent, shipping.agent), simulation.start, simulation.check)
TARGETS = [f"examples.order_processing.{name}:agent" for name in ("order", "inventory", "payment", "shipping")]
START = "examples.order_processing.simulation:start"


class Ordered(Event, name="own.ordered"):
    number: int


class Reserved(Event, name="own.reserved"):
    number: int


CHOREOGRAPHY = (
    Choreography("own-shop")
    .starts_with(Ordered)
    .step(
        ChoreographyStep("reserve").on_event(Ordered).publish_event(Reserved).with_compensation().owned_by("shop"),
        ChoreographyStep("charge").on_event(Reserved).with_compensation().owned_by("payment"),
    )
)


async def _note(ctx: StepContext, effect: str) -> None:
    await ctx.tx.execute("create table if not exists ledger (saga text, step text, effect text)")
    await ctx.tx.execute("insert into ledger values (?, ?, ?)", str(ctx.saga_id), ctx.step, effect)


class Shop:
    """Two small agents. `wrong` says what is wrong with them; `outside` is what a handler did beside its transaction."""

    def __init__(self, wrong: str = "", *, is_assembled: bool = False) -> None:
        self.outside: list[tuple[UUID, str]] = []
        opened = Choreography("own-shop").starts_with(Ordered, participants={"shop", "payment"})
        self.shop = Agent("shop", saga=opened if is_assembled else CHOREOGRAPHY)
        self.payment = Agent("payment", saga="own-shop" if is_assembled else CHOREOGRAPHY)
        for agent in (self.shop, self.payment):
            agent.configure(limits=Limits(scan_every_s=2))
        self._declare_shop(wrong)
        self._declare_payment(wrong)
        self.own = OwnAgents((self.shop, self.payment), lambda number, random: Ordered(number=random.randint(0, 9)), self.check)

    def _declare_shop(self, wrong: str) -> None:
        @self.shop.step("reserve")
        async def reserve(ordered: Ordered, ctx: StepContext) -> Reserved:
            await _note(ctx, "do")
            return Reserved(number=ordered.number)

        @reserve.compensation
        async def release(ctx: StepContext) -> None:
            if wrong != "undoes nothing":
                await _note(ctx, "undo")

    def _declare_payment(self, wrong: str) -> None:
        @self.payment.step("charge")
        async def charge(reserved: Reserved, ctx: StepContext) -> None:
            if wrong == "always fails":
                raise ValueError("no such table: money")
            if reserved.number < 3:
                raise Reject("too small")
            await _note(ctx, "do")
            self.outside.append((ctx.saga_id, ctx.step))

        @charge.compensation
        async def refund(ctx: StepContext) -> None:
            await _note(ctx, "undo")

    async def check(self, saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
        wrong = list[str]()
        for service, step in (("shop", "reserve"), ("payment", "charge")):
            rows = await fetch(service, "select effect from ledger where saga = ? and step = ? order by rowid", str(saga_id), step)
            effects = [effect for (effect,) in rows]
            if effects not in ([["do"]] if state == SagaState.COMPLETED else [[], ["do", "undo"]]):
                wrong.append(f"{step} has the effects {effects}")
        return wrong

    async def check_outside(self, saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
        del state, fetch
        times = self.outside.count((saga_id, "charge"))
        return [f"charged {times} times"] if times > 1 else []


def _traced(own: OwnAgents, seed: int) -> Verdict:
    return run_one(seed, Settings(layer="c", own=own, trace=True))


def test_the_order_example_keeps_every_promise_under_random_faults() -> None:
    result = simulate(range(30), Settings(layer="c", sagas=2, own=EXAMPLE))
    assert [str(verdict.violations[0]) for verdict in result.failures] == []
    assert result.completed + result.aborted == result.sagas == 60
    assert result.completed > 10
    assert result.aborted > 10
    assert result.sometimes["crash of an agent"] > 10
    assert result.sometimes["statement of a step failed"] > 5


def test_the_same_seed_gives_the_same_run_whatever_the_order_of_hashes() -> None:
    first, again = _traced(EXAMPLE, 3), _traced(EXAMPLE, 3)
    assert first.digest != 0
    assert first.trace == again.trace
    assert _traced(EXAMPLE, 4).digest != first.digest
    script = (
        "from examples.order_processing import inventory, order, payment, shipping, simulation as s\n"
        "from saga_choreo.testing.simulator.layers import run_one\n"
        "from saga_choreo.testing.simulator.settings import OwnAgents, Settings\n"
        "own = OwnAgents((order.agent, inventory.agent, payment.agent, shipping.agent), s.start, s.check)\n"
        "print(run_one(3, Settings(layer='c', own=own, trace=True)).digest)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stdout.strip() == str(first.digest), done.stderr


@pytest.mark.parametrize("is_assembled", [False, True], ids=["a shared choreography", "an assembled one"])
def test_sound_handlers_pass(is_assembled: bool) -> None:
    result = simulate(range(8), Settings(layer="c", own=Shop(is_assembled=is_assembled).own))
    assert [str(verdict.violations[0]) for verdict in result.failures] == []
    assert result.completed > 0
    assert result.aborted > 0


def test_a_compensation_that_undoes_nothing_is_found() -> None:
    result = simulate(range(10), Settings(layer="c", own=Shop("undoes nothing").own))
    (violation, *_) = result.failures[0].violations
    assert violation.code == "CHECK"
    assert "reserve has the effects ['do']" in violation.text


def test_an_effect_outside_of_the_transaction_is_found_to_happen_twice() -> None:
    shop = Shop()
    result = simulate(range(20), Settings(layer="c", own=OwnAgents(shop.own.agents, shop.own.start, shop.check_outside)))
    (violation, *_) = result.failures[0].violations
    assert violation.code == "CHECK"
    assert "charged 2 times" in violation.text


def test_a_step_that_never_works_is_named_with_its_error() -> None:
    own = Shop("always fails").own
    (violation, *_) = run_one(0, Settings(layer="c", sagas=1, own=own, only=frozenset())).violations
    assert violation.code == "L1"
    assert "'payment'" in violation.text
    assert "no such table: money" in violation.text


def test_agents_that_cannot_run_the_saga_are_refused_at_once() -> None:
    shop = Shop()

    def stranger(number: int, random: Random) -> Event:
        return Reserved(number=number)

    with pytest.raises(ConfigurationError, match="no such agent was given"):
        run_one(0, Settings(own=OwnAgents((shop.shop,), shop.own.start)))
    with pytest.raises(ConfigurationError, match="starts no choreography of agent 'shop'"):
        run_one(0, Settings(own=OwnAgents(shop.own.agents, stranger)))
    with pytest.raises(ConfigurationError, match="gave None, not an Event"):
        run_one(0, Settings(own=OwnAgents(shop.own.agents, lambda number, random: None)))  # type: ignore[arg-type,return-value]  as a user's
    with pytest.raises(ConfigurationError, match="same name"):
        run_one(0, Settings(own=OwnAgents((shop.shop, *shop.own.agents), shop.own.start)))


async def _answers_seven(saga_id: UUID, state: SagaState, fetch: Fetch) -> Any:
    del saga_id, state, fetch
    return 7


async def _breaks(saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
    del state, fetch
    raise KeyError(str(saga_id)[:0])


async def _asks_a_stranger(saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
    del saga_id, state
    return [str(await fetch("nobody", "select 1"))]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (_answers_seven, "the check gave 7; return a list of texts"),
        (_breaks, r"the check of saga 'SAGA-0' \(\w+\) failed with KeyError: ''; mend the check"),
        (_asks_a_stranger, "no service 'nobody' to fetch from; the agents are 'shop'"),
    ],
)
def test_a_check_that_breaks_is_told_from_what_it_finds(check: Check, message: str) -> None:
    own = Shop().own
    with pytest.raises(ConfigurationError, match=message):
        run_one(0, Settings(layer="c", sagas=1, own=replace(own, check=check), only=frozenset()))


async def _asserts(saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
    del saga_id, fetch
    assert state == "compensated", "it went through"
    return []


def test_an_assertion_in_a_check_is_what_it_finds() -> None:
    (violation,) = run_one(0, Settings(layer="c", sagas=1, own=replace(Shop().own, check=_asserts), only=frozenset())).violations
    assert violation.code == "CHECK"
    assert violation.text.startswith("saga 'SAGA-0' (completed): it went through")


def test_a_start_function_that_fails_is_named_with_its_error() -> None:
    def broken(number: int, random: Random) -> Event:
        raise ValueError(f"no order number {number} at {random.random() < 0}")

    with pytest.raises(ConfigurationError, match="the start function failed for saga 0 with ValueError: no order number 0"):
        run_one(0, Settings(layer="c", own=replace(Shop().own, start=broken)))


def _invoke(*words: str) -> Any:
    return CliRunner().invoke(cli, ["simulate", *words])


def test_the_command_runs_the_agents_it_is_given() -> None:
    done = _invoke(*TARGETS, "--start", START, "--seeds", "2", "--layer", "c")
    assert done.exit_code == 0, done.output
    assert "violations   0" in done.output
    assert "crash of an agent" in done.output


def test_the_command_wants_agents_and_a_function() -> None:
    assert "needs the agents" in _invoke("--start", START).output
    assert "is a module, not a function" in str(_invoke(*TARGETS, "--start", START.partition(":")[0]).exception)
