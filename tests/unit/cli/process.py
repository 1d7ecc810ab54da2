"""Runs the installed command, as a process or (where nothing of a process matters, since it is faster) in this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from saga_choreo.cli.main import run_command

__all__ = ["APP", "COMMAND", "in_process", "saga_choreo", "write_app"]

COMMAND = str(Path(sys.executable).parent / "saga-choreo")
APP = """
from saga_choreo import Choreography, ChoreographyStep, all_of

charge = (
    ChoreographyStep("charge-payment").on_event("order.created").publish_event("payment.charged")
    .with_compensation("payment.refunded", external=True).owned_by("payment")
)
reserve = (
    ChoreographyStep("reserve-stock").on_event("order.created").publish_event("stock.reserved")
    .with_compensation().owned_by("stock")
)
ship = (
    ChoreographyStep("ship-order").on_event(all_of("payment.charged", "stock.reserved"))
    .publish_event("order.shipped").owned_by("shipping").kind(external=True, pivot=True)
)
orders = Choreography("orders", version=2).starts_with("order.created").step(charge, reserve, ship).deadline(minutes=30)
broken = Choreography("broken").starts_with("order.created").step(
    ChoreographyStep("loop-a").on_event("loop.b").publish_event("loop.a").owned_by("x"),
    ChoreographyStep("loop-b").on_event("loop.a").publish_event("loop.b").owned_by("x"),
)
number = 7
"""


def write_app(folder: Path, source: str = APP, name: str = "shop") -> Path:
    (folder / f"{name}.py").write_text(source)
    return folder


def saga_choreo(*args: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """The process's ending. SAGA_* of the machine it runs on must not matter."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    return subprocess.run(
        [COMMAND, *args],
        cwd=cwd,
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def in_process(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same, in this process: no terminal on either side."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, clean | environ, clear=True),
        patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run_command(list(args))
    return subprocess.CompletedProcess(["saga-choreo", *args], int(code), out.getvalue(), err.getvalue())
