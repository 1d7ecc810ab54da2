"""`saga-choreo broker`: what the agents of some services need on the broker: as a plan, declared, and checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.output import Output, output_options

__all__ = ["broker"]


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--prefix", default="", help="The prefix of all channels; default: that of the agents, or 'saga'.")(
        command
    )
    command = click.option("--broker", "broker_url", metavar="URL", help="The broker; default: SAGA_BROKER_URL.")(command)
    return click.argument("apps", nargs=-1, metavar="[APP]...")(command)


@click.group
def broker() -> None:
    """Plan, declare and check the channels on the broker.

    APP is 'package.module', 'package.module:choreography' (the owners of its steps) or 'package.module:agent' (its own service: name
    the agent that starts the sagas too, if it owns no step); default: SAGA_APP.

    \b
    Examples:
      saga-choreo broker plan --broker nats://127.0.0.1:4222 shop.choreography
      saga-choreo broker check shop.payment:agent && echo ready
    """


@broker.command("plan")
@_common
@output_options("table", "json", "jsonl", "name")
def plan_command(out: Output, apps: tuple[str, ...], broker_url: str | None, prefix: str) -> None:
    """Show what would be declared, without asking the server.

    \b
    Examples:
      saga-choreo broker plan --broker nats://127.0.0.1:4222 shop.choreography
      saga-choreo broker plan --broker amqp://127.0.0.1 --prefix shop shop.choreography --json
    """
    from saga_choreo.cli.channels import show_plan

    show_plan(apps, broker_url, prefix, out)


@broker.command("apply")
@_common
@output_options("table", "json", "jsonl", "name")
@click.pass_context
def apply_command(ctx: click.Context, out: Output, apps: tuple[str, ...], broker_url: str | None, prefix: str) -> None:
    """Declare what is missing and widen what is too narrow, then check. Nothing is ever deleted or narrowed.

    Exit code 6 when something is still missing or different afterwards.

    \b
    Examples:
      saga-choreo broker apply --broker nats://admin:secret@nats.example:4222 shop.choreography
      SAGA_DECLARE=0 saga-choreo run shop.payment:agent    # an agent that may not declare anything itself
    """
    from saga_choreo.cli.channels import apply_and_check

    if not apply_and_check(apps, broker_url, prefix, out):
        ctx.exit(ExitCode.FINDINGS)


@broker.command("check")
@_common
@output_options("table", "json", "jsonl", "name")
@click.pass_context
def check_command(ctx: click.Context, out: Output, apps: tuple[str, ...], broker_url: str | None, prefix: str) -> None:
    """Compare what is there with what is needed: missing, different, extra, unseen. Changes nothing.

    Exit code 6 when something is missing or different. What is extra is only told: it may belong to a service that was not named.
    So is what the broker does not show (unseen): RabbitMQ lists no bindings to its clients.

    \b
    Examples:
      saga-choreo broker check shop.choreography -o json
      saga-choreo broker check --broker nats://127.0.0.1:4222 shop.payment:agent
    """
    from saga_choreo.cli.channels import check

    if not check(apps, broker_url, prefix, out):
        ctx.exit(ExitCode.FINDINGS)
