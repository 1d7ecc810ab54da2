"""`saga-choreo verify`: findings and their exit code."""

from __future__ import annotations

import json
from pathlib import Path

from process import APP, saga_choreo, write_app


def test_a_well_formed_choreography_is_exit_code_0(tmp_path: Path) -> None:
    write_app(tmp_path)
    text, as_json = saga_choreo("verify", "shop:orders", cwd=tmp_path), saga_choreo("verify", "shop:orders", "--json", cwd=tmp_path)
    assert (text.returncode, text.stdout, text.stderr) == (0, "well-formed\n", "")
    assert (as_json.returncode, as_json.stdout) == (0, "[]\n")


def test_sagas_that_nothing_ever_ends_are_a_warning_which_fails_where_that_is_asked_for(tmp_path: Path) -> None:
    write_app(tmp_path, APP.replace(".deadline(minutes=30)", ""))
    done = saga_choreo("verify", "shop:orders", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning  orders v2: there is no deadline" in done.stderr
    assert "'ship-order'" in done.stderr
    (warning,) = json.loads(saga_choreo("verify", "shop:orders", "--json", cwd=tmp_path).stdout)
    assert (warning["severity"], warning["code"]) == ("warning", "W1")
    assert saga_choreo("verify", "shop:orders", "--fail-on", "warning", cwd=tmp_path).returncode == 6


def test_findings_are_exit_code_6_with_code_step_and_message(tmp_path: Path) -> None:
    write_app(tmp_path)
    text, as_json = saga_choreo("verify", "shop:broken", cwd=tmp_path), saga_choreo("verify", "shop:broken", "--json", cwd=tmp_path)
    findings = [one for one in json.loads(as_json.stdout) if one["severity"] == "error"]
    assert (text.returncode, as_json.returncode, as_json.stderr) == (6, 6, "")
    assert len(findings) > 0
    assert {finding["choreography"] for finding in findings} == {"broken"}
    assert all(finding["code"] and finding["message"] for finding in findings)
    lines = text.stdout.splitlines()
    assert lines[-1] == f"{len(findings)} findings"
    assert lines[0].startswith(findings[0]["code"])
