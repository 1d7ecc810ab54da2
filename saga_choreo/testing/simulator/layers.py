"""The two layers of one simulator: 'b' drives the pipeline's generators alone, 'c' runs real agents on a virtual event loop."""

from __future__ import annotations

from saga_choreo.testing.simulator.live import run_live_seed
from saga_choreo.testing.simulator.own import run_own_seed
from saga_choreo.testing.simulator.settings import Settings, Verdict
from saga_choreo.testing.simulator.simulation import run_seed

__all__ = ["run_one"]


def run_one(seed: int, settings: Settings) -> Verdict:
    """Run one seed in the layer that the settings name."""
    if settings.own is not None:
        return run_own_seed(seed, settings, settings.own)
    return run_live_seed(seed, settings) if settings.layer == "c" else run_seed(seed, settings)
