"""`saga-choreo asyncapi`: a choreography's events for people and tools that speak AsyncAPI."""

from __future__ import annotations

import click

from saga_choreo.cli.exits import CliError, ExitCode
from saga_choreo.cli.output import debug_option, emit_json

__all__ = ["asyncapi"]


@click.group
def asyncapi() -> None:
    """Describe the events of a choreography as AsyncAPI.

    \b
    Examples:
      saga-choreo asyncapi export shop.choreography > asyncapi.json
      saga-choreo asyncapi export --prefix prod shop.order:agent shop.payment:agent
    """


@asyncapi.command("export")
@click.argument("apps", nargs=-1, metavar="[APP]...")
@click.option("--prefix", default="saga", show_default=True, help="The prefix of all channels.")
@debug_option
def export(apps: tuple[str, ...], prefix: str) -> None:
    """Write an AsyncAPI 3.0 document (JSON): channels, messages with their payloads, and who sends and receives what.

    APP is as for `saga-choreo graph`; all that is named must make up one choreography.

    \b
    Examples:
      saga-choreo asyncapi export shop.choreography > asyncapi.json
      saga-choreo asyncapi export --prefix prod shop.order:agent shop.payment:agent
    """
    from saga_choreo.cli.asyncapi_document import document
    from saga_choreo.cli.gather import gather
    from saga_choreo.cli.locate import app_or_setting

    described = gather(apps or (app_or_setting(None),))
    if len(described) != 1:
        names = ", ".join(repr(one.choreography.name) for one in described)
        raise CliError(
            ExitCode.USAGE,
            f"an AsyncAPI document holds one choreography, and {len(described)} were named: {names}",
            hint="name one: 'module:choreography'",
        )
    (one,) = described
    if one.unknown:
        raise CliError(ExitCode.USAGE, f"choreography {one.choreography.name!r} is not whole: {one.unknown}")
    emit_json(document(one.choreography, prefix))
