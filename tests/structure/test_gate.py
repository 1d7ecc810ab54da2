"""The gate is as short as it is because tests that share a server stay on one worker, and the longest groups begin first."""

from pathlib import Path

import pytest

from tests import conftest

TESTS = Path(__file__).resolve().parents[1]


def test_a_worker_keeps_groups_together(request: pytest.FixtureRequest) -> None:
    workers = getattr(request.config, "workerinput", None)
    if workers is None or not request.config.getoption("loadgroup"):
        pytest.skip("one process runs all tests, or they are not kept in groups")
    assert request.node.nodeid.endswith("@test_gate"), "pytest and pytest-xdist do not fit: each worker starts each server"


@pytest.mark.parametrize("group", conftest._LONG_S)
def test_a_group_that_takes_long_is_called_as_its_file_is(group: str) -> None:
    assert list(TESTS.rglob(f"{group.partition('-')[0]}.py"))
