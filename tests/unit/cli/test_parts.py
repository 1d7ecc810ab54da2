"""`graph` and `verify` of agents that know only their own steps: each alone, and put together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from process import saga_choreo, write_app

_ORIGIN = """
from saga_choreo import Agent, Choreography, Event
class Ordered(Event, name="shop.ordered"): pass
class Reserved(Event, name="stock.reserved"): pass
agent = Agent("web", saga=Choreography("shop", version=3).starts_with(Ordered, participants={"inventory", "payment"}))
"""
_INVENTORY = """
from saga_choreo import Agent
from web import Ordered, Reserved
agent = Agent("inventory", saga="shop")
@agent.step
async def reserve(order: Ordered) -> Reserved: return Reserved()
@reserve.compensation
async def release() -> None: pass
"""
_PAYMENT = """
from saga_choreo import Agent
from web import Ordered, Reserved
agent = Agent("payment", saga="shop")
@agent.step
async def pay(stock: Reserved) -> None: pass
@pay.compensation
async def refund() -> None: pass
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, source in (("web", _ORIGIN), ("inventory", _INVENTORY), ("payment", _PAYMENT)):
        write_app(tmp_path, source, name)
    return tmp_path


def test_one_agent_shows_its_own_steps_and_says_that_the_rest_is_unknown(shop: Path) -> None:
    drawn, judged = saga_choreo("graph", "inventory:agent", cwd=shop), saga_choreo("verify", "inventory:agent", cwd=shop)
    lines = drawn.stdout.splitlines()
    assert lines[:2] == [
        "shop",
        "the rest is unknown: these are the steps of 'inventory' only; name the agent that starts its sagas too",
    ]
    assert " ".join(lines[-1].split()) == "1 reserve inventory shop.ordered -> stock.reserved - yes"
    assert (judged.returncode, judged.stdout) == (0, "")
    assert "the whole cannot be judged" in judged.stderr


def test_all_agents_together_are_the_choreography_that_they_make_up_at_run_time(shop: Path) -> None:
    names = ("web:agent", "inventory", "payment:agent")
    drawn, judged = saga_choreo("graph", *names, "--json", cwd=shop), saga_choreo("verify", *names, cwd=shop)
    (document,) = json.loads(drawn.stdout)
    assert (document["name"], document["version"], document["unknown"]) == ("shop", 3, None)
    assert len(document["definition"]) == 32
    assert [(one["from"], one["to"]) for one in document["edges"]] == [("reserve", "pay"), ("origin", "reserve")]
    assert (judged.returncode, judged.stdout) == (0, "well-formed\n")
    assert judged.stderr.startswith("warning  shop v3: there is no deadline")


def test_a_participant_that_is_not_named_is_told_of(shop: Path) -> None:
    done = saga_choreo("graph", "web", "inventory", "--json", cwd=shop)
    (document,) = json.loads(done.stdout)
    assert document["unknown"] == "the steps of 'payment' are not among them; name these agents too"
    assert document["definition"] is None
    assert "%% the rest is unknown" in saga_choreo("graph", "web", "inventory", "-o", "mermaid", cwd=shop).stdout


def test_parts_that_do_not_go_together_are_findings(shop: Path) -> None:
    write_app(shop, _INVENTORY.replace("-> Reserved: return Reserved()", "-> None: pass"), "inventory")
    done = saga_choreo("verify", "web", "inventory", "payment", cwd=shop)
    assert done.returncode == 6
    assert "ST3" in done.stdout


def test_an_agent_outside_the_closed_set_is_refused(shop: Path) -> None:
    write_app(shop, _PAYMENT.replace('"payment"', '"parcel"'), "parcel")
    done = saga_choreo("verify", "web", "inventory", "parcel", cwd=shop)
    assert done.returncode != 0
    assert "choreography 'shop' is closed to 'inventory', 'payment', and 'parcel'" in done.stderr


def test_the_model_checker_asks_for_a_whole_choreography(shop: Path) -> None:
    done = saga_choreo("check-model", "inventory:agent", cwd=shop)
    assert done.returncode != 0
    assert "knows only its own steps" in done.stderr
