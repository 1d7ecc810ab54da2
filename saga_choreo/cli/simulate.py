"""`saga-choreo simulate`: run sagas under random faults in virtual time, and hold every promise against what happens."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.sound import require_sound

if TYPE_CHECKING:
    from saga_choreo.model.choreography import Choreography
    from saga_choreo.testing.simulator.settings import Check, OwnAgents, Settings, StartEvent
    from saga_choreo.testing.simulator.simulate import Result

__all__ = ["missed", "simulate"]

# Fewer sagas of drawn graphs than this, by layer, need not reach every rare situation.
_FULL_RUN_SAGAS = {"b": 20_000, "c": 12_000}
_SHOWN_LINES = 60
# Runs to make a failing one small. One with own agents that never ends takes seconds.
_TRIES_MAX, _OWN_TRIES_MAX = 300, 40


@click.command
@click.argument("apps", nargs=-1, metavar="[APP]...")
@click.option("--seeds", type=click.IntRange(1), default=500, show_default=True, help="How many seeds to run.")
@click.option("--seed", "first", type=int, default=0, show_default=True, help="The first one.")
@click.option("--sagas", type=click.IntRange(1, 1000), default=4, show_default=True, help="Sagas of each seed.")
@click.option(
    "--layer", type=click.Choice(["b", "c"]), default="b", show_default=True, help="b: the pipeline alone; c: real agents."
)
@click.option("--start", "start", metavar="MODULE:FUNCTION", help="Run the agents' own handlers; this makes the start events.")
@click.option("--loss", type=click.FloatRange(0, 0.9), default=0.0, help="Share of messages that the broker loses.")
@click.option("--reannounce/--no-reannounce", default=None, help="Repeated announcements; by default each seed decides.")
@click.option("--shape", default="", help="Draw graphs of this shape only.")
@click.option("--rate", "rates", multiple=True, metavar="FAULT=RATE", help="Fix the rate of one class of faults; repeatable.")
@click.option("--anyway", is_flag=True, help="Run a choreography though it is not well-formed.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that run the seeds.")
@click.option("--failures", "failures_max", type=click.IntRange(1), default=1, show_default=True, help="Stop after so many.")
@click.option("--shrink/--no-shrink", "shrinks", default=True, help="Make a failing run small, and show it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def simulate(
    ctx: click.Context,
    /,
    apps: tuple[str, ...],
    seeds: int,
    first: int,
    sagas: int,
    layer: str,
    start: str | None,
    loss: float,
    reannounce: bool | None,
    shape: str,
    rates: tuple[str, ...],
    anyway: bool,
    jobs: int,
    failures_max: int,
    shrinks: bool,
    as_json: bool,
) -> None:
    """Run sagas under random faults. Exit code 6 when a promise is broken or APP is not well-formed, 1 when a full run misses one of
    the rare situations that it counts under "sometimes". A run is full with 20,000 sagas of drawn graphs (5,000 seeds), in layer c
    with 12,000 (3,000 seeds). sagas_per_s is by CPU time: what one core does. Ctrl-C ends a run early, with what it has found.

    APP is 'package.module:choreography'; without it, graphs are drawn from a family of shapes. With --start APP is an agent; name
    all of them, first the one that starts the sagas. Their own handlers run on SQLite files and a memory broker, in layer c.
    FUNCTION(number, random) returns the start event; `async def check(saga_id, state, fetch)` beside it may return what is wrong
    with the effects of a saga that has ended.

    \b
    Examples:
      saga-choreo simulate --seeds 5000
      saga-choreo simulate shop.choreography --seeds 500 --loss 0.4
      saga-choreo simulate --seed 4711 --seeds 1
      saga-choreo simulate shop.order:agent shop.payment:agent --start shop.simulation:start
    """
    from saga_choreo.testing.simulator.settings import Settings
    from saga_choreo.testing.simulator.simulate import simulate_on

    if not 0 <= loss <= 1:  # not a number passes every range
        raise click.UsageError(f"--loss is {loss!r}; give a share from 0 to 0.9")
    if loss and reannounce is False:
        raise click.UsageError("lost messages are repaired by repeated announcements; leave --no-reannounce or --loss out")
    own = _own_agents(apps, start) if start else None
    settings = Settings(
        layer=layer if own is None else "c",
        own=own,
        sagas=sagas,
        choreographies=() if start else _choreographies(apps, anyway=anyway),
        shape=_shape(shape),
        reannounce=True if loss else reannounce,
        loss=loss,
        rates=_rates(rates),
    )
    if start and jobs > 1:
        raise click.UsageError("your own agents run in one process; leave --jobs or --start out")
    wanted = _until_interrupted(range(first, first + seeds))
    result = simulate_on(jobs, wanted, settings, failures_max=failures_max)
    click.echo(json.dumps(result.to_json()) if as_json else _summary(result))
    if result.failures:
        if shrinks:
            _explain(result, settings, " ".join([*apps, *([f"--start {start}"] if start else [])]))
        ctx.exit(ExitCode.FINDINGS)
    if result.seeds < seeds:
        click.echo(f"interrupted after {result.seeds} of {seeds} seeds", err=True)
        ctx.exit(ExitCode.INTERRUPTED)
    not_reached = missed(result, is_drawn=not (apps or shape or rates))
    if not_reached:
        click.echo(f"never reached: {', '.join(not_reached)}", err=True)
        ctx.exit(ExitCode.FAILED)


def _until_interrupted(seeds: Iterable[int]) -> Iterator[int]:
    """Ctrl-C lets the seed that runs come to its end; pressed once more it ends the command at once."""
    is_asked = False

    def ask(*_: Any) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        for seed in seeds:
            if is_asked:
                return
            yield seed
    finally:
        signal.signal(signal.SIGINT, before)


def missed(result: Result, *, is_drawn: bool) -> list[str]:
    """Rare situations that a full run has not reached. `is_drawn`: over all shapes of graphs, at all rates of faults."""
    return result.never_reached if is_drawn and result.sagas >= _FULL_RUN_SAGAS[result.layer] else []


def _choreographies(apps: tuple[str, ...], *, anyway: bool) -> tuple[Choreography, ...]:
    if not apps:
        return ()
    from saga_choreo.cli.locate import find_choreographies

    found = tuple(dict.fromkeys(one for app in apps for one in find_choreographies(app)))
    if not anyway:
        require_sound(found)
    return found


def _own_agents(apps: tuple[str, ...], start: str) -> OwnAgents:
    from saga_choreo.cli.locate import find_agent, find_start
    from saga_choreo.runtime.agent import Agent
    from saga_choreo.testing.simulator.settings import OwnAgents

    agents = [agent for agent in map(find_agent, apps) if isinstance(agent, Agent)]
    if not agents or len(agents) < len(apps):
        raise click.UsageError(
            "--start needs the agents, first the one that starts the sagas: 'shop.order:agent shop.payment:agent'"
        )
    function, check = find_start(start)
    return OwnAgents(tuple(agents), cast("StartEvent", function), cast("Check | None", check))


def _shape(shape: str) -> str:
    from saga_choreo.testing.simulator.shapes import SHAPES

    if shape and shape not in SHAPES:
        raise click.UsageError(f"there is no shape {shape!r}; known are {', '.join(SHAPES)}")
    return shape


def _rates(pairs: tuple[str, ...]) -> dict[str, float]:
    from saga_choreo.testing.simulator.faults import RATES

    rates: dict[str, float] = {}
    for pair in pairs:
        name, _, rate = pair.partition("=")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise click.UsageError(f"--rate {pair!r} is not FAULT=RATE; write for example --rate crash=0.01") from None
        if name not in RATES:
            raise click.UsageError(f"there is no fault {name!r}; known are {', '.join(RATES)}")
        if not 0 <= rates[name] <= 1:
            raise click.UsageError(f"--rate {pair!r} is not between 0 and 1; it is the share of opportunities at which it happens")
    return rates


def _summary(result: Result) -> str:
    found = result.to_json()
    lines = [f"{name:<12} {found[name]}" for name in ("seeds", "sagas", "completed", "aborted", "violations", "sagas_per_s")]
    lines += ["sometimes:", *(f"  {count:>9}  {situation}" for situation, count in found["sometimes"].items())]
    return "\n".join(lines)


def _explain(result: Result, settings: Settings, app: str) -> None:
    """A failing seed, made small: on stderr."""
    from saga_choreo.testing.simulator.shrink import shrink
    from saga_choreo.testing.simulator.simulate import replay_command

    for verdict in result.failures:
        click.echo(f"seed {verdict.seed}: {verdict.violations[0]}", err=True)
        click.echo(f"run again: {replay_command(verdict.seed, settings, app)}", err=True)
    small, left = shrink(result.failures[0], settings, _OWN_TRIES_MAX if settings.own else _TRIES_MAX)
    if not small.violations:
        raise CliError(ExitCode.FAILED, f"seed {small.seed} fails only sometimes, so the simulator itself is not deterministic")
    kept = "all" if left.keep is None else ", ".join(map(str, sorted(left.keep)))
    click.echo(f"\nmade small: sagas {kept}; {len(small.faults)} faults are needed, the last lines are", err=True)
    for (name, number), at_s in small.faults:
        click.echo(f"  fault {name} #{number} at {at_s:.3f} s", err=True)
    for line in small.trace[-_SHOWN_LINES:]:
        click.echo(line, err=True)
