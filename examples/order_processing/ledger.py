"""A ledger in each service's own database: one row per business effect, written in the step's transaction.

It has no unique key and swallows nothing, so an effect that happened twice is there twice. The demo judges by it alone.
"""

import time

from saga_choreo import StepContext

TABLE = """create table if not exists ledger (
    saga_id text not null, step text not null, effect text not null, at_ns integer not null, wall_ns integer not null
)"""


async def note(ctx: StepContext, effect: str) -> None:
    """Write down that this step's effect ('do' or 'undo') happens now; the monotonic clock orders effects across services."""
    await ctx.tx.execute(TABLE)
    await ctx.tx.execute(
        "insert into ledger (saga_id, step, effect, at_ns, wall_ns) values (?, ?, ?, ?, ?)",
        str(ctx.saga_id),
        ctx.step,
        effect,
        time.monotonic_ns(),
        time.time_ns(),
    )
