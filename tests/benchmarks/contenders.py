"""Who takes part in `make bench`, and one run of one of them on an empty database."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.counting import counted
from tests.benchmarks.stage import Stage

__all__ = ["CONTENDERS", "Contender", "one_run"]

_ROOT = Path(__file__).resolve().parents[2]
_ANSWER_S = 300.0
_SAGAS_MIN = 20


@dataclass(frozen=True, slots=True)
class Contender:
    """A script and what it needs. A `share` below one: a slow peer runs that part of the sagas, fewer at once."""

    name: str
    module: str
    mode: str = ""
    needs: tuple[str, ...] = ()
    share: float = 1.0
    at_once: int = 200

    @property
    def missing(self) -> str:
        return ", ".join(name for name in self.needs if find_spec(name) is None)


CONTENDERS = (
    Contender("ours", "ours", "one"),
    Contender("limit_handlers", "peers.floor", "handlers"),
    Contender("limit_batch", "peers.floor", "batch"),
    Contender("limit_single", "peers.floor", "single"),
    Contender("faststream", "peers.faststream_outbox", needs=("faststream", "faststream_outbox"), share=0.2, at_once=64),
    Contender("dbos", "peers.dbos_workflow", needs=("dbos",), share=0.15, at_once=64),
    Contender("cqrs", "peers.cqrs_saga", needs=("cqrs", "di"), share=0.15, at_once=64),
    Contender("ours_four", "ours", "four"),
)


def one_run(stage: Stage, contender: Contender, sagas: int, *more: str, count: bool = False) -> dict[str, Any]:
    """Run a contender's script once on an empty database. `count`: what it asks of the servers too, through a counting relay that
    makes it slower. Raises RuntimeError with what the script said when it fails."""
    name = f"bench_{time.time_ns()}"
    url = stage.fresh_database(name)
    asked = max(_SAGAS_MIN, int(sagas * contender.share))
    words = ["--sagas", str(asked), "--at-once", str(contender.at_once), "--mode", contender.mode, "--nats", stage.nats.url]
    words += ["--servers", ",".join(map(str, stage.servers)), *more]
    command = [sys.executable, "-m", f"tests.benchmarks.{contender.module}", *words]
    try:
        if count:
            with counted(stage, url, asked) as counts:
                said = _said(contender, [*command, "--database", counts.url])
            said["counts"] = counts.figures
        else:
            said = _said(contender, [*command, "--database", url])
    finally:
        stage.drop_database(name)
    return said


def _said(contender: Contender, command: list[str]) -> dict[str, Any]:
    ended = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{contender.name} failed with {ended.returncode}: {ended.stdout[-500:]}{ended.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found
