"""`saga-choreo verify`: everything that is wrong with a choreography, before it runs."""

from __future__ import annotations

import click

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.output import Output, emit_json, output_options, schema, talk

__all__ = ["verify"]


@click.command
@click.argument("apps", nargs=-1, metavar="[APP]...")
@click.option(
    "--fail-on", type=click.Choice(["error", "warning"]), default="error", show_default=True, help="What ends with exit code 6."
)
@output_options("text", "json", tabular=False)
@click.pass_context
def verify(ctx: click.Context, apps: tuple[str, ...], fail_on: str, out: Output) -> None:
    """Check that a choreography is well-formed. Exit code 6 when it is not; what is allowed and seldom wanted is a warning.

    APP is 'package.module', 'package.module:choreography' or 'package.module:agent'; default: SAGA_APP.
    Several agents that know only their own steps are put together, if the one that starts the sagas is among them; of one alone
    only its own declarations can be checked.

    \b
    Examples:
      saga-choreo verify shop.choreography --json
      saga-choreo verify shop.order:agent shop.payment:agent shop.shipping:agent
    """
    from saga_choreo.cli.gather import gather, warnings_of
    from saga_choreo.cli.locate import app_or_setting
    from saga_choreo.core.wellformed import findings

    described = gather(apps or (app_or_setting(None),))
    found = [(one.choreography, finding) for one in described if not one.unknown for finding in findings(one.choreography)]
    warned = [(one.choreography, text) for one in described if not one.unknown for text in warnings_of(one.choreography)]
    for one in described:
        if one.unknown:
            talk(f"{one.choreography.name}: the declarations are sound; the whole cannot be judged: {one.unknown}")
    if out.format == "json":
        emit_json(
            [
                {
                    "schema": schema("finding"),
                    "choreography": choreography.name,
                    "version": choreography.version,
                    "code": finding.code,
                    "step": finding.step,
                    "message": finding.message,
                    "severity": "error",
                }
                for choreography, finding in found
            ]
            + [
                {
                    "schema": schema("finding"),
                    "choreography": choreography.name,
                    "version": choreography.version,
                    "code": "W1",
                    "step": "",
                    "message": text,
                    "severity": "warning",
                }
                for choreography, text in warned
            ]
        )
    else:
        for choreography, finding in found:
            where = f"{choreography.name} v{choreography.version}" + (f", step {finding.step!r}" if finding.step else "")
            click.echo(f"{finding.code}  {where}: {finding.message}")
        for choreography, text in warned:
            talk(f"warning  {choreography.name} v{choreography.version}: {text}")
        if found or not any(one.unknown for one in described):
            click.echo(f"{len(found)} findings" if found else "well-formed")
    if found or (warned and fail_on == "warning"):
        ctx.exit(ExitCode.FINDINGS)
