"""`saga-choreo graph`: a choreography as text, as a Mermaid diagram, as JSON."""

from __future__ import annotations

import click

from saga_choreo.cli.output import Output, emit_json, output_options

__all__ = ["graph"]


@click.command
@click.argument("app", required=False)
@output_options("text", "mermaid", "json", tabular=False)
def graph(app: str | None, out: Output) -> None:
    """Draw a choreography: steps in the order they can run, with owners, events, kinds and compensations.

    APP is 'package.module', 'package.module:choreography' or 'package.module:agent'; default: SAGA_APP.

    \b
    Examples:
      saga-choreo graph shop.choreography
      saga-choreo graph shop.payment:agent -o mermaid
    """
    from saga_choreo.cli.drawing import as_document, as_mermaid, as_text
    from saga_choreo.cli.locate import app_or_setting, find_choreographies

    choreographies = find_choreographies(app_or_setting(app))
    if out.format == "json":
        emit_json([as_document(choreography) for choreography in choreographies])
        return
    draw = as_mermaid if out.format == "mermaid" else as_text
    click.echo("\n\n".join(draw(choreography) for choreography in choreographies))
