"""`saga-choreo version`: what is installed, for people and for bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as installed

import click

from saga_choreo import __version__
from saga_choreo.cli.output import Output, emit_json, output_options, schema

__all__ = ["version"]

_LIBRARIES = ("pydantic", "orjson", "click", "opentelemetry-api", "nats-py", "apsw", "uvloop")


def _library(name: str) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:
        return None


@click.command
@output_options("text", "json", tabular=False)
def version(out: Output) -> None:
    """Show the versions of toolkit, Python and adapters.

    \b
    Examples:
      saga-choreo version
      saga-choreo version --json
    """
    libraries = {name: found for name in _LIBRARIES if (found := _library(name)) is not None}
    adapters = {kind: sorted({e.name for e in entry_points(group=f"saga_choreo.{kind}")}) for kind in ("brokers", "stores")}
    if out.format == "json":
        emit_json(
            {
                "schema": schema("version"),
                "version": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "libraries": libraries,
                **adapters,
            }
        )
        return
    click.echo(f"saga-choreo {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(f"libraries: {', '.join(f'{name} {found}' for name, found in libraries.items())}")
    for kind, schemes in adapters.items():
        click.echo(f"{kind}: {', '.join(schemes)}")
