"""The order example for `saga-choreo simulate`: which orders come, and what must be in the databases when a saga has ended.

    saga-choreo simulate examples.order_processing.order:agent examples.order_processing.inventory:agent \\
        examples.order_processing.payment:agent examples.order_processing.shipping:agent \\
        --start examples.order_processing.simulation:start
"""

from random import Random
from uuid import UUID

from examples.order_processing.choreography import OrderCreated
from saga_choreo.model.states import SagaState
from saga_choreo.testing.simulator.settings import Fetch

# In the order of events; undone in the opposite order.
STEPS = (
    ("inventory", "reserve-stock"),
    ("payment", "charge-payment"),
    ("shipping", "book-shipment"),
    ("order", "confirm-order"),
)


def start(number: int, random: Random) -> OrderCreated:
    """The how-many-th order. The same random numbers come with the same seed."""
    return OrderCreated(
        order=f"o-{number}",
        item="book",
        quantity=random.randint(1, 5),
        amount_cents=random.randint(100, 90_000),
        card="declined" if random.random() < 0.2 else "4242",
        address="unreachable" if random.random() < 0.2 else "Elm Street 1",
    )


async def check(saga_id: UUID, state: SagaState, fetch: Fetch) -> list[str]:
    """What is wrong with the effects of a saga that ended in this state. An empty list: nothing."""
    wrong: list[str] = []
    done: list[int] = []
    undone: list[int] = []
    for service, step in STEPS:
        effects = await fetch(
            service, "select effect, at_ns from ledger where saga_id = ? and step = ? order by at_ns", str(saga_id), step
        )
        words = [effect for effect, _ in effects]
        allowed = [["do"]] if state == SagaState.COMPLETED else [[], ["do", "undo"]]
        if words not in allowed:
            wrong.append(f"{step} has the effects {words}")
        done += [at for effect, at in effects if effect == "do"]
        undone += [at for effect, at in effects if effect == "undo"]
    if done != sorted(done):
        wrong.append("the steps were not done in their order")
    if undone != sorted(undone, reverse=True):
        wrong.append("the steps were not undone in the opposite order")
    return wrong
