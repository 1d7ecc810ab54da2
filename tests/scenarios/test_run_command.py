"""`saga-choreo run` with a real agent, a real NATS server and a real SQLite file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from saga_choreo.testing.servers import NatsServer

COMMAND = str(Path(sys.executable).parent / "saga-choreo")
APP = """
import atexit
import gc
import sys

from saga_choreo import Agent, Choreography, ChoreographyStep, Event

class OrderCreated(Event, name="order.created"): ...
class PaymentCharged(Event, name="payment.charged"): ...

charge = ChoreographyStep("charge").on_event(OrderCreated).publish_event(PaymentCharged).owned_by("payment").kind(pivot=True)
agent = Agent("payment", saga=Choreography("orders").starts_with(OrderCreated).step(charge))

@agent.step("charge")
async def charge_payment(order: OrderCreated) -> PaymentCharged:
    return PaymentCharged()

# What is loaded is not looked through at every collection.
atexit.register(lambda: print(f"frozen: {gc.get_freeze_count() > 10_000}", file=sys.stderr))
"""


def _list(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    listing = [COMMAND, "sagas", "list", "--json"]
    return subprocess.run(listing, cwd=folder, env=environ, capture_output=True, text=True, timeout=30, check=False)


def test_an_agent_runs_until_sigterm_beside_a_tool_that_reads_its_store(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    store = f"sqlite:///{tmp_path}/payment.db"
    with NatsServer(tmp_path / "nats") as server:
        environ = {**os.environ, "SAGA_APP": "shop", "SAGA_BROKER_URL": server.url, "SAGA_STORE_URL": store}
        agent = [COMMAND, "run"]
        with subprocess.Popen(
            agent, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                deadline = time.monotonic() + 30
                while (listed := _list(tmp_path, environ)).returncode != 0:  # until the agent has made its tables
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline, listed.stderr
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, out) == (0, ""), err
    assert "stopping agent 'payment'" in err
    assert "frozen: True" in err
    assert listed.stdout.strip() == "[]"
