"""`saga-choreo check-model`: search every interleaving of a choreography for a broken promise.

Switches are those of the model checker's `Options`; on the command line each is a pair, such as --park/--no-park.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saga_choreo.cli.sound import require_sound

if TYPE_CHECKING:
    from saga_choreo.model.choreography import Choreography
    from saga_choreo.testing.model_checker.options import Options, Result

__all__ = ["check_model", "command"]

_FINDINGS = 6
_F = TypeVar("_F", bound=Callable[..., Any])
_SWITCHES = (
    ("cancel", True, "Somebody cancels at the origin."),
    ("ask", False, "Somebody asks for a cancel at any participant."),
    ("deadline", True, "Deadlines pass."),
    ("decline", True, "Steps and providers refuse."),
    ("park", False, "Technical failures last, and the step is parked."),
    ("veto", False, "Technical failures last, and the step refuses."),
    ("operator", False, "A person resolves parked steps."),
    ("undo-fails", False, "Compensations fail."),
    ("go-on", False, "A parked compensation does not hold its predecessors back."),
    ("pending", False, "Every external step may go pending."),
    ("forget", False, "The horizon passes, and finished records are deleted."),
    ("causes", False, "Tell the causes of an abort apart."),
)


def _switches(function: _F) -> _F:
    for name, default, text in reversed(_SWITCHES):
        function = click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=text)(function)
    return function


@click.command("check-model")
@click.argument("app", required=False)
@click.option("--all-graphs", type=click.IntRange(1, 5), metavar="N", help="Every well-formed graph of up to N steps.")
@click.option("--states-max", type=click.IntRange(1), default=4_000_000, show_default=True, help="Give up beyond so many states.")
@click.option("--anyway", is_flag=True, help="Search it though it is not well-formed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_switches
@click.pass_context
def check_model(
    ctx: click.Context, /, app: str | None, all_graphs: int | None, states_max: int, anyway: bool, as_json: bool, **switches: bool
) -> None:
    """Search every interleaving of messages, failures and cancels. Exit code 6 when a promise is broken, or a choreography is not
    well-formed.

    APP is 'package.module:choreography' or the name of a built-in graph; without it, all ten built-in graphs are searched.

    \b
    Examples:
      saga-choreo check-model shop.choreography
      saga-choreo check-model diamond --park --operator
      saga-choreo check-model --all-graphs 3 --json
    """
    from saga_choreo.testing.model_checker.options import Options

    if app and all_graphs:
        raise click.UsageError("APP and --all-graphs exclude each other; give one of them")
    options = Options(states_max=states_max, **switches)
    chosen = () if all_graphs else tuple(_choreographies(app))
    if not anyway:
        require_sound(chosen)
    results = [_checked_all(all_graphs, options)] if all_graphs else [*_checked(chosen, options, as_json=as_json)]
    if as_json:
        answers = [result.to_json() for result in results]
        click.echo(json.dumps(answers[0] if len(answers) == 1 else answers))
    elif all_graphs:
        _tell(results[0])
    if any(result.violations for result in results):
        ctx.exit(_FINDINGS)


def _choreographies(app: str | None) -> Iterable[Choreography]:
    from saga_choreo.testing.model_checker.graphs import GRAPHS

    if app is None:
        return [make() for make in GRAPHS.values()]
    if app in GRAPHS:
        return [GRAPHS[app]()]
    from saga_choreo.cli.locate import find_choreographies, is_module

    if "." not in app and ":" not in app and not is_module(app):
        from saga_choreo.errors import ConfigurationError

        raise ConfigurationError(
            f"there is no built-in graph {app!r}; name one of {', '.join(GRAPHS)}, or a choreography: 'package.module:attribute'"
        )
    return find_choreographies(app)


def _checked(choreographies: Iterable[Choreography], options: Options, *, as_json: bool) -> Iterator[Result]:
    from saga_choreo.testing.model_checker.check import check

    for choreography in choreographies:
        result = check(choreography, options)
        if not as_json:
            _tell(result)
        yield result


def _checked_all(steps_max: int, options: Options) -> Result:
    """All graphs as one result: sums, and the first violation if there is one."""
    from saga_choreo.testing.model_checker.check import check_all

    return check_all(steps_max, options)


def _tell(result: Result) -> None:
    ends = f"{len(result.completed)} ways to complete, {len(result.aborted)} ways to abort"
    verdict = "BROKEN" if result.violations else "holds"
    click.echo(
        f"{result.graph}: {verdict}; {result.states} states, {result.transitions} transitions, {ends}; "
        f"{result.transitions_per_s} transitions/s"
    )
    for violation in result.violations:
        click.echo(str(violation))


command = check_model
