"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saga_choreo import Limits
from saga_choreo.errors import ConfigurationError
from saga_choreo.runtime.settings import Settings, read_settings


def test_an_empty_environment_gives_defaults() -> None:
    assert read_settings({}) == Settings(log_level="info", log_format="auto")


def test_each_setting_is_read() -> None:
    environ = {
        "SAGA_APP": "shop:agent",
        "SAGA_BROKER_URL": "nats://h",
        "SAGA_STORE_URL": "sqlite:///a",
        "SAGA_LOG_LEVEL": "DEBUG",
        "SAGA_LOG_FORMAT": "json",
    }
    expected = Settings(app="shop:agent", broker_url="nats://h", store_url="sqlite:///a", log_level="debug", log_format="json")
    assert read_settings(environ) == expected


def test_a_secret_can_be_mounted_as_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("nats://user:password@h\n")
    settings = read_settings({"SAGA_BROKER_URL_FILE": str(secret)})
    assert settings.broker_url == "nats://user:password@h"
    assert "password" not in repr(settings)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="both SAGA_STORE_URL and SAGA_STORE_URL_FILE are set"):
        read_settings({"SAGA_STORE_URL": "a", "SAGA_STORE_URL_FILE": "b"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"SAGA_APP_FILE names '.*missing', which cannot be read"):
        read_settings({"SAGA_APP_FILE": str(tmp_path / "missing")})
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigurationError, match="is longer than 65536 bytes"):
        read_settings({"SAGA_APP_FILE": str(tmp_path / "long")})


def test_a_word_no_setting_knows_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="SAGA_LOG_LEVEL is 'loud'; set it to one of: debug, info"):
        read_settings({"SAGA_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("wrong", "needed"),
    [
        ({"batch_max": 0}, "of 1 or more"),
        ({"horizon_s": 0.0}, "above zero"),
        ({"stop_grace_s": -1.0}, "of 0 or more"),
        ({"lease_s": float("nan")}, "above zero"),
        ({"alive_every_s": None}, "of 0 or more"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_before_anything_runs(wrong: dict[str, Any], needed: str) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"the limit {name} is .*; give a number {needed}"):
        Limits(**wrong)
