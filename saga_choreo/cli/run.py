"""`saga-choreo run`: one participant's agent as a process."""

from __future__ import annotations

import os

import click

from saga_choreo.cli.output import debug_option

__all__ = ["run"]


@click.command
@click.argument("app", required=False)
@debug_option
def run(app: str | None) -> None:
    """Run one participant's agent until SIGTERM or SIGINT. The first signal stops it cleanly (exit code 0), a second one at once.

    APP is 'package.module:agent', or 'package.module' when the module holds one agent; default: SAGA_APP. Broker and store come
    from the agent, or from SAGA_BROKER_URL and SAGA_STORE_URL (each also as ..._FILE).

    \b
    Examples:
      saga-choreo run shop.payment:agent
      SAGA_BROKER_URL=nats://localhost:4222 SAGA_STORE_URL=sqlite:///payment.db saga-choreo run shop.payment
    """
    from saga_choreo.cli.locate import app_or_setting, find_agent
    from saga_choreo.cli.serve import serve
    from saga_choreo.runtime.settings import read_settings

    settings = read_settings(os.environ)
    agent = find_agent(app_or_setting(app))
    code = serve(agent, settings)
    if code:
        raise click.exceptions.Exit(code)
