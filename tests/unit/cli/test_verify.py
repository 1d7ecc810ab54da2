"""`saga-choreo verify`: findings and their exit code."""

from __future__ import annotations

import json
from pathlib import Path

from process import saga_choreo, write_app


def test_a_well_formed_choreography_is_exit_code_0(tmp_path: Path) -> None:
    write_app(tmp_path)
    text, as_json = saga_choreo("verify", "shop:orders", cwd=tmp_path), saga_choreo("verify", "shop:orders", "--json", cwd=tmp_path)
    assert (text.returncode, text.stdout, text.stderr) == (0, "well-formed\n", "")
    assert (as_json.returncode, as_json.stdout) == (0, "[]\n")


def test_findings_are_exit_code_6_with_code_step_and_message(tmp_path: Path) -> None:
    write_app(tmp_path)
    text, as_json = saga_choreo("verify", "shop:broken", cwd=tmp_path), saga_choreo("verify", "shop:broken", "--json", cwd=tmp_path)
    findings = json.loads(as_json.stdout)
    assert (text.returncode, as_json.returncode, as_json.stderr) == (6, 6, "")
    assert len(findings) > 0
    assert {finding["choreography"] for finding in findings} == {"broken"}
    assert all(finding["code"] and finding["message"] for finding in findings)
    lines = text.stdout.splitlines()
    assert lines[-1] == f"{len(findings)} findings"
    assert lines[0].startswith(findings[0]["code"])
