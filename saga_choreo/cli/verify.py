"""`saga-choreo verify`: everything that is wrong with a choreography, before it runs."""

from __future__ import annotations

import click

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.output import Output, emit_json, output_options, schema

__all__ = ["verify"]


@click.command
@click.argument("app", required=False)
@output_options("text", "json", tabular=False)
@click.pass_context
def verify(ctx: click.Context, app: str | None, out: Output) -> None:
    """Check that a choreography is well-formed. Exit code 6 when there are findings.

    APP is 'package.module', 'package.module:choreography' or 'package.module:agent'; default: SAGA_APP.

    \b
    Examples:
      saga-choreo verify shop.choreography
      saga-choreo verify shop.payment:agent --json
    """
    from saga_choreo.cli.locate import app_or_setting, find_choreographies
    from saga_choreo.core.wellformed import findings

    found = [(c, finding) for c in find_choreographies(app_or_setting(app)) for finding in findings(c)]
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
                }
                for choreography, finding in found
            ]
        )
    else:
        for choreography, finding in found:
            where = f"{choreography.name} v{choreography.version}" + (f", step {finding.step!r}" if finding.step else "")
            click.echo(f"{finding.code}  {where}: {finding.message}")
        click.echo(f"{len(found)} findings" if found else "well-formed")
    if found:
        ctx.exit(ExitCode.FINDINGS)
