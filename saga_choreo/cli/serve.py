"""An agent in a process of its own: event loop, signals, logs.

The first SIGTERM or SIGINT asks the agent to stop: it finishes or hands back what it has. A second one cancels it, and the
process ends with 130 or 143, so that a supervisor can tell that the drain was cut short; so it does when something of the agent
would not end in time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from saga_choreo.cli.exits import ExitCode
from saga_choreo.cli.locate import Runnable
from saga_choreo.cli.output import talk
from saga_choreo.errors import StopCutShort
from saga_choreo.runtime.logs import configure
from saga_choreo.runtime.settings import Settings

__all__ = ["serve"]

_log = logging.getLogger("saga_choreo.agent")
_CUT_SHORT = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed; None is asyncio's own."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


async def _until_stopped(agent: Runnable) -> int:
    stop = asyncio.Event()
    asked: list[signal.Signals] = []
    cut_short: list[signal.Signals] = []
    running = asyncio.current_task()
    assert running is not None

    def on_signal(number: signal.Signals) -> None:
        if not stop.is_set():
            talk(f"{number.name}: stopping agent {agent.name!r}; once more to stop at once")
            asked.append(number)
            stop.set()
        elif not cut_short:
            cut_short.append(number)
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in _CUT_SHORT:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await agent.run(stop=stop)
    except StopCutShort as error:
        _log.critical("%s", error)
        return _CUT_SHORT[asked[0]]
    except asyncio.CancelledError:
        if not cut_short:
            raise
        return _CUT_SHORT[cut_short[0]]
    finally:
        for number in _CUT_SHORT:
            loop.remove_signal_handler(number)
    return ExitCode.DONE


def serve(agent: Runnable, settings: Settings) -> int:
    """Run the agent to its end; the exit code of the process."""
    configure(settings.log_format, settings.log_level, agent.name)
    # What has been imported lives as long as the process; to look through it at every full collection costs 6 % of the CPU under load.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_until_stopped(agent))
        if code:
            # Closing the loop waits for everything that still runs, and some of it may never end.
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)
        return code
