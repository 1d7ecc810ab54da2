"""`saga-choreo states`: the transition table, as text or as state diagrams."""

from __future__ import annotations

import click

from saga_choreo.cli.output import Output, emit_json, output_options, schema

__all__ = ["states"]


@click.command
@output_options("text", "mermaid", "json", tabular=False)
def states(out: Output) -> None:
    """Show what can become of a step's record and of the origin row, rule by rule.

    \b
    Examples:
      saga-choreo states
      saga-choreo states -o mermaid
    """
    from saga_choreo.core.drawing import lines, mermaid, text, word

    if out.format == "text":
        click.echo(text())
    elif out.format == "mermaid":
        click.echo("\n\n".join(mermaid(origin=origin) for origin in (False, True)))
    else:
        emit_json(
            [
                {
                    "schema": schema("transition"),
                    "rule": one.rule,
                    "state": word(one.state),
                    "fact": one.fact,
                    "to": [word(state) for state in one.to],
                }
                for origin in (False, True)
                for one in lines(origin=origin)
            ]
        )
