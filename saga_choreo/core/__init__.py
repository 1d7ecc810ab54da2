"""Decisions of the protocol: transition table, emissions, well-formedness, derived states. Pure functions of values."""
