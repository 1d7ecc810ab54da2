"""Drawings of a choreography."""

from __future__ import annotations

import json
from pathlib import Path

from process import saga_choreo, write_app

from saga_choreo import Choreography, ChoreographyStep
from saga_choreo.cli.drawing import as_document, as_mermaid, as_text, layers
from saga_choreo.model.choreography import Split


def _choice() -> Choreography:
    decide = ChoreographyStep("decide").on_event("order.created").publish_event("order.big", "order.small", split=Split.ONE)
    late = ChoreographyStep("ask").on_event("order.big").publish_event("ask.answered").on_deadline("ask.late")
    return Choreography("choice").starts_with("order.created").step(decide.owned_by("a"), late.owned_by("b"))


def test_text_shows_layers_owners_events_kinds_and_compensations(tmp_path: Path) -> None:
    done = saga_choreo("graph", "shop:orders", cwd=write_app(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "orders v2, starts with order.created v1, deadline 0:30:00"
    rows = [" ".join(line.split()) for line in lines[4:]]
    assert rows == [
        "1 charge-payment payment order.created -> payment.charged - payment.refunded (external)",
        "reserve-stock stock order.created -> stock.reserved - yes",
        "2 ship-order shipping payment.charged and stock.reserved -> order.shipped external, pivot -",
    ]


def test_mermaid_draws_compensations_as_dotted_edges(tmp_path: Path) -> None:
    done = saga_choreo("graph", "shop:orders", "-o", "mermaid", cwd=write_app(tmp_path))
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "flowchart LR"
    assert 's0 -- "payment.charged v1" --> s2' in lines
    assert 's0 -. "payment.refunded (external)" .-> undo_s0{{"undo charge-payment"}}' in lines
    assert 's2 -- "order.shipped" --> sink' in lines


def test_json_is_a_list_of_documents_with_hash_layers_and_edges(tmp_path: Path) -> None:
    done = saga_choreo("graph", "shop:orders", "--json", cwd=write_app(tmp_path))
    (document,) = json.loads(done.stdout)
    assert document["schema"] == "saga-choreo/v1/graph"
    assert document["deadline_ms"] == 1_800_000
    assert {step["name"]: step["layer"] for step in document["steps"]} == {"charge-payment": 1, "reserve-stock": 1, "ship-order": 2}
    assert len(document["edges"]) == 4


def test_a_module_without_attribute_shows_all_its_choreographies(tmp_path: Path) -> None:
    done = saga_choreo("graph", cwd=write_app(tmp_path), SAGA_APP="shop")
    assert [line.split()[0] for line in done.stdout.splitlines() if "starts with" in line] == ["orders", "broken"]


def test_a_cycle_is_drawn_and_not_followed_for_ever() -> None:
    a = ChoreographyStep("a").on_event("loop.b").publish_event("loop.a")
    b = ChoreographyStep("b").on_event("loop.a").publish_event("loop.b")
    cyclic = Choreography("cyclic").step(a, b)
    assert [[step.name for step in layer] for layer in layers(cyclic)] == [["a", "b"]]
    assert "starts with nothing (add .starts_with(...))" in as_text(cyclic)
    assert "s0 --" in as_mermaid(cyclic)
    assert as_document(cyclic)["deadline_ms"] is None


def test_choices_and_deadlines_can_be_told_apart() -> None:
    text = as_text(_choice())
    assert "order.big xor order.small" in text
    assert "ask.answered, late: ask.late" in text


def test_an_agent_stands_for_the_choreographies_it_takes_part_in(tmp_path: Path) -> None:
    agent = "from saga_choreo.runtime.agent import Agent\nfrom shop import orders\nagent = Agent('payment', saga=orders)\n"
    write_app(write_app(tmp_path), agent, "payment")
    by_name, by_module = saga_choreo("graph", "payment:agent", cwd=tmp_path), saga_choreo("graph", "payment", cwd=tmp_path)
    assert by_name.stdout.startswith("orders v2")
    assert by_module.stdout == by_name.stdout
