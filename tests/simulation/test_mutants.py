"""How `make mutants` plants a mutant and looks for it. That each can be found takes `make mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import EQUIVALENT, PATCHES, TRIES, planted, run_mutant, tries_of

MUTANTS = sorted(PATCHES.glob("*.patch"))
NEW = """--- {before}saga_choreo/core/stale.py
+++ {after}saga_choreo/core/stale.py
@@ -1,2 +1,2 @@
-{line}
+{line} And more.
{next}
"""


def _new_patch(before: str, after: str, line: str = "") -> str:
    first, second, *_ = (PATCHES.parents[2] / "saga_choreo" / "core" / "stale.py").read_text().splitlines()
    return NEW.format(before=before, after=after, line=line or first, next=f" {second}")


def test_only_a_mutant_that_there_is_counts_as_equivalent() -> None:
    assert set(EQUIVALENT) <= {patch.stem for patch in MUTANTS}


@pytest.mark.parametrize(("before", "after"), [("a/", "b/"), ("", "")])
def test_a_patch_from_elsewhere_is_planted_with_and_without_a_prefix(before: str, after: str, tmp_path: Path) -> None:
    (tmp_path / "new.patch").write_text(_new_patch(before, after))
    assert planted(tmp_path / "new.patch", tmp_path / "copy") == ""
    assert "And more." in (tmp_path / "copy" / "saga_choreo" / "core" / "stale.py").read_text()


def test_a_patch_that_does_not_fit_is_told_as_one_that_does_not_apply(tmp_path: Path) -> None:
    (tmp_path / "new.patch").write_text(_new_patch("a/", "b/", "nothing of the kind"))
    found = run_mutant(tmp_path / "new.patch", 1)
    assert found["verdict"] == "does not apply"
    assert "saga_choreo/core/stale.py" in str(found["how"])


def test_a_patch_from_elsewhere_that_does_not_say_how_is_tried_in_every_way(tmp_path: Path) -> None:
    silent, speaking = tmp_path / "silent.patch", tmp_path / "speaking.patch"
    silent.write_text("--- a/x\n")
    speaking.write_text("# A fault.\n# simulate: --layer c --seeds 7\n--- a/x\n")
    assert len(tries_of(silent, 5)) == len(TRIES)
    assert tries_of(speaking, 5) == [["simulate", "--no-reannounce", "--seeds", "5", "--layer", "c", "--seeds", "7"]]
