"""saga_choreo: sagas without a coordinator."""

__version__ = "0.1.0"
