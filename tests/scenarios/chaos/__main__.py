"""`python -m tests.scenarios.chaos [SCENARIO ...]`: hurt real services, brokers and databases, and say what the ledgers say.

One JSON line a scenario, broker and store. Exit code 1 when anything was lost, repeated or wrong; what could not be run here is
named with its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import orjson

from saga_choreo.errors import ConfigurationError
from tests.scenarios.chaos.scenarios import BROKERS, SCENARIOS, STORES, Scenario, Servers, run

__all__ = ["main"]


def main() -> int:
    wanted = _arguments()
    wrong = False
    with Servers() as servers:
        for scenario in SCENARIOS:
            if wanted.scenarios and scenario.name not in wanted.scenarios:
                continue
            for broker in wanted.broker:
                for store in wanted.store:
                    if broker in scenario.brokers and store in scenario.stores:
                        wrong |= _one(scenario, broker, store, servers, wanted)
    return int(wrong)


def _one(scenario: Scenario, broker: str, store: str, servers: Servers, wanted: argparse.Namespace) -> bool:
    line: dict[str, object] = {"scenario": scenario.name, "broker": broker, "store": store}
    began = time.monotonic()
    try:
        runs, verdict = asyncio.run(run(scenario, broker, store, servers, sagas=wanted.sagas, seed=wanted.seed, part=wanted.part))
    except ConfigurationError as error:
        _say(line | {"skipped": str(error)})
        return bool(wanted.strict)
    except Exception as error:
        _say(line | {"failed": repr(error)})
        return True
    _say(
        line
        | {
            "runs": runs,
            "sagas": verdict.sagas,
            "lost": verdict.lost,
            "repeated": verdict.repeated,
            "violations": len(verdict.violations),
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    for violation in verdict.violations[:20]:
        print(f"  {violation}", file=sys.stderr)
    return bool(verdict.lost or verdict.repeated or verdict.violations)


def _say(line: dict[str, object]) -> None:
    print(orjson.dumps(line).decode(), flush=True)


def _arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"all, unless named: {', '.join(names)}")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="repeatable; all of them by default")
    parser.add_argument("--store", action="append", choices=STORES, help="repeatable; both by default")
    parser.add_argument("--sagas", type=int, default=0, help="how many, instead of the scenario's own number")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which it is hurt")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="of what is enumerated (killed-everywhere), the k-th of n parts"
    )
    parser.add_argument("--strict", action="store_true", help="what cannot be run here counts as wrong")
    wanted = parser.parse_args()
    if unknown := sorted(set(wanted.scenarios) - set(names)):
        parser.error(f"there is no scenario {unknown[0]!r}; take one of: {', '.join(names)}")
    wanted.broker = wanted.broker or list(BROKERS)
    wanted.store = wanted.store or list(STORES)
    return wanted


def _part(text: str) -> tuple[int, int]:
    ours, _, parts = text.partition("/")
    if not (ours.isdecimal() and parts.isdecimal() and 1 <= int(ours) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N, such as 1/4")
    return int(ours), int(parts)


if __name__ == "__main__":
    sys.exit(main())
