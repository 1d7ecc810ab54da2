"""Mutation testing of `saga_choreo.core`: each small fault that `mutating.py` can make has to fail a test.

    python tests/simulation/mutation.py [MODULE ...] [--only TEXT] [--list]

Everything is imported and collected once, in one process. For each mutant a fork of it swaps the code of the changed functions in
place and runs the tests that call them, those first that killed the most neighbours, until one fails; so a mutant costs a
fraction of a second. What cannot be told apart is in `equivalent.toml`, each with its proof; a proof that no mutant needs, or
whose mutant is killed, fails the run. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings
from mutating import Mutant, mutants_of, planted

from saga_choreo.core import graph

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "saga_choreo" / "core"
MODULES = (
    "transitions", "origin", "resolutions", "rows", "emissions", "routing", "graph", "stale", "states", "notices",
    "rules", "reach", "worlds", "wellformed",
)  # fmt: skip
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
TESTS = (
    "tests/unit/core",
    "tests/unit/test_transitions.py",
    "tests/unit/test_wellformed.py",
    "tests/simulation/test_model_checker.py",
)
# What these would find, smaller ones find sooner.
LARGE = (
    "[w_shape]", "[xor_second_root]", "[fork]", "test_the_search_uses_every_rule_that_can_change_a_record",
    "test_all_graphs_of_two_steps_hold_and_none_is_there_twice", "test_every_cause_that_is_told_is_the_first_one_at_the_origin",
    "test_the_protocol_holds_for_a_choice_of_several_events_with_several_readers",
)  # fmt: skip
LONG = {"slow", "long"}
EXAMPLES_MAX = 40
# A mutant with an endless loop (or an endless list) is stopped: a test may take ten times what it takes without, and a second.
SLOWER = 10
MEMORY_BYTES = 3 << 30
SCORE_MIN = 95.0

# The same examples in every run, so that a score can be compared; and no search for a smaller one, which takes longest.
settings.register_profile("mutation", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("mutation")


def _code_of(thing: Any) -> FunctionType | None:
    thing = getattr(thing, "__wrapped__", thing)
    thing = getattr(thing, "__func__", getattr(thing, "fget", None) or thing)
    return thing if isinstance(thing, FunctionType) else None


def swap(module: ModuleType, tree: Any) -> None:
    """Put the code of the changed module into the functions that are already known everywhere, and its changed constants in the
    place of the old ones."""
    scratch: dict[str, Any] = {"__name__": module.__name__, "__builtins__": __builtins__}
    # A class is built by looking its module up, which has to find the scratch one only for what is evaluated now.
    exec(compile(tree, str(module.__file__), "exec", dont_inherit=True), scratch)
    for name, new in scratch.items():
        old = vars(module).get(name)
        if name.startswith("__") or getattr(new, "__module__", module.__name__) != module.__name__:
            continue
        if isinstance(new, type):
            _swap_class(old, new)
        elif _code_of(new) is not None:
            _swap_function(_code_of(old), _code_of(new))
        elif old != new:
            for other in list(sys.modules.values()):
                if vars(other).get(name) is old and old is not None:
                    setattr(other, name, new)


def _swap_function(old: Any, new: Any) -> None:
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def _swap_class(old: Any, new: type) -> None:
    for name, member in vars(new).items():
        ours = vars(old).get(name)
        if name == "_field_defaults":
            old.__new__.__defaults__ = new.__new__.__defaults__
        elif _code_of(member) is not None and _code_of(member).__module__ == new.__module__:  # type: ignore[union-attr]  # just asked
            _swap_function(_code_of(ours), _code_of(member))


class Campaign:
    """A pytest plugin: its run of the tests is one run for each mutant."""

    def __init__(self, mutants: dict[str, list[Mutant]], quiet: bool) -> None:
        self.mutants = mutants
        self.quiet = quiet
        self.callers: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.seconds: dict[int, float] = {}
        self.kills: dict[str, Counter[int]] = defaultdict(Counter)
        self.results: dict[str, dict[str, str]] = defaultdict(dict)
        self.broken: list[str] = []
        self.proofs = {str(one["name"]): str(one["proof"]) for one in tomllib.loads(EQUIVALENT.read_text())["mutant"]}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item for item in items if not item.name.endswith(LARGE) and not LONG & {mark.name for mark in item.iter_markers()}
        ]
        for item in items:
            test: Any = getattr(item, "obj", None)
            chosen = getattr(test, "_hypothesis_internal_use_settings", None)
            if chosen is not None:
                test._hypothesis_internal_use_settings = settings(chosen, max_examples=EXAMPLES_MAX)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for number, item in enumerate(session.items):
            began = time.process_time()
            self._baseline(number, item)
            self.seconds[number] = time.process_time() - began
        print(f"{len(session.items)} tests take {sum(self.seconds.values()):.1f} s", file=sys.stderr, flush=True)
        if self.broken:
            return True
        gc.collect()
        gc.freeze()
        for module, mutants in self.mutants.items():
            source = (CORE / f"{module}.py").read_text()
            if self._verdict(session.items, module, source, None) != "survived":
                self.broken.append(f"{module}, swapped for itself")
            for mutant in mutants:
                verdict = self._verdict(session.items, module, source, mutant)
                self.results[module][mutant.name] = verdict
                if verdict == "survived" and not self.quiet and mutant.name not in self.proofs:
                    print(f"survived  {mutant.name}", file=sys.stderr, flush=True)
            print(
                json.dumps(summary(module, self.results[module], self.proofs) | {"survivors": "above"}), file=sys.stderr, flush=True
            )
        return True

    def _baseline(self, number: int, item: pytest.Item) -> None:
        """Which functions of the core a test calls; it has to pass."""
        graph._plan_of.cache_clear()
        called: set[CodeType] = set()

        def watch(frame: FrameType, _event: str, _argument: object) -> None:
            called.add(frame.f_code)

        sys.settrace(watch)
        try:
            passed = _passes(item)
        finally:
            sys.settrace(None)
        if not passed:
            self.broken.append(item.nodeid)
        for code in called:
            path = Path(code.co_filename)
            if path.parent == CORE:
                self.callers[path.stem, code.co_qualname.split(".<locals>")[0]].add(number)

    def _verdict(self, items: list[pytest.Item], module: str, source: str, mutant: Mutant | None) -> str:
        known = self.callers.get((module, mutant.function)) if mutant else None
        # What is evaluated at import, and a plan made at import, is seen by any test.
        chosen = set(range(len(items))) if known is None or module == "graph" else known
        kills = self.kills[module]
        order = sorted(chosen, key=lambda n: (-kills[n] / (0.02 + self.seconds[n]), self.seconds[n]))
        tests = [(number, items[number], SLOWER * self.seconds[number] + 1) for number in order]
        ended = _in_a_fork(lambda: _first_failing(tests, module, source, mutant))
        if 0 <= ended < len(items):
            kills[ended] += 1
            return "killed"
        return {-1: "survived", -2: "killed at import"}.get(ended, "stopped")


def _in_a_fork(run: Any) -> int:
    """The number that `run` answers with in a process of its own; -3 when that process did not end by itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os.write(writer, str(run()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        answer = told.read()
    os.waitpid(child, 0)
    return int(answer) if answer else -3


def _first_failing(tests: list[tuple[int, pytest.Item, float]], module: str, source: str, mutant: Mutant | None) -> int:
    try:
        swap(importlib.import_module(f"saga_choreo.core.{module}"), planted(source, mutant) if mutant else ast.parse(source))
    except Exception:
        return -2
    for number, item, seconds in tests:
        graph._plan_of.cache_clear()
        # CPU time; when it is over the process ends without an answer.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        if not _passes(item):
            return number
    return -1


def _passes(item: pytest.Item) -> bool:
    from _pytest.runner import runtestprotocol

    return all(report.passed for report in runtestprotocol(item, log=False))


def summary(module: str, verdicts: dict[str, str], proofs: dict[str, str]) -> dict[str, Any]:
    """Equivalent mutants count neither as killed nor as mutants."""
    survivors = [name for name, verdict in verdicts.items() if verdict == "survived" and name not in proofs]
    counted = [name for name, verdict in verdicts.items() if not (verdict == "survived" and name in proofs)]
    killed = len(counted) - len(survivors)
    score = round(100 * killed / len(counted), 1) if counted else 100.0
    equivalent = len(verdicts) - len(counted)
    return {
        "module": module,
        "mutants": len(counted),
        "killed": killed,
        "equivalent": equivalent,
        "survivors": survivors,
        "score": score,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; all without one")
    parser.add_argument("--only", default="", help="only mutants whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the names of the mutants")
    parser.add_argument("--quiet", action="store_true", help="print the results only")
    asked = parser.parse_args()
    chosen = asked.modules or list(MODULES)
    mutants = {m: [x for x in mutants_of((CORE / f"{m}.py").read_text(), m) if asked.only in x.name] for m in chosen}
    if asked.list:
        print(*(mutant.name for some in mutants.values() for mutant in some), sep="\n")
        return 0
    began = time.perf_counter()
    campaign = Campaign(mutants, asked.quiet)
    options = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:terminal", "--capture=no"]
    options += ["-W", "ignore"]
    ended = pytest.main([*options, *(str(ROOT / test) for test in TESTS if (ROOT / test).exists())], plugins=[campaign])
    if campaign.broken:
        print(f"these fail without any mutant: {', '.join(campaign.broken)}", file=sys.stderr)
        return 1
    if ended != pytest.ExitCode.OK or not campaign.results:
        print(f"pytest ended with {ended}", file=sys.stderr)
        return 1
    proofs = campaign.proofs
    verdicts = {name: verdict for some in campaign.results.values() for name, verdict in some.items()}
    stale = [name for name in proofs if name.split(".")[0] in chosen and asked.only in name and verdicts.get(name) != "survived"]
    modules = [summary(module, some, proofs) for module, some in campaign.results.items()]
    total = summary("core", verdicts, proofs)
    print(json.dumps(total | {"modules": modules, "wrong_proofs": stale, "seconds": round(time.perf_counter() - began, 1)}))
    return 1 if stale or total["score"] < SCORE_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
