"""`saga-choreo graph`: a choreography as text, as a Mermaid diagram, as JSON."""

from __future__ import annotations

import click

from saga_choreo.cli.output import Output, emit_json, output_options

__all__ = ["graph"]


@click.command
@click.argument("apps", nargs=-1, metavar="[APP]...")
@output_options("text", "mermaid", "json", tabular=False)
def graph(apps: tuple[str, ...], out: Output) -> None:
    """Draw a choreography: steps in the order they can run, with owners, events, kinds and compensations.

    APP is 'package.module', 'package.module:choreography' or 'package.module:agent'; default: SAGA_APP.
    Several agents that know only their own steps are put together, if the one that starts the sagas is among them.

    \b
    Examples:
      saga-choreo graph shop.choreography -o mermaid
      saga-choreo graph shop.order:agent shop.payment:agent shop.shipping:agent
    """
    from saga_choreo.cli.drawing import as_document, as_mermaid, as_text
    from saga_choreo.cli.gather import gather
    from saga_choreo.cli.locate import app_or_setting

    described = gather(apps or (app_or_setting(None),))
    if out.format == "json":
        emit_json([as_document(one.choreography, one.unknown) for one in described])
        return
    draw = as_mermaid if out.format == "mermaid" else as_text
    click.echo("\n\n".join(draw(one.choreography, one.unknown) for one in described))
