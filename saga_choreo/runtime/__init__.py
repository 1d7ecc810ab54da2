"""The agent at work: everything that awaits."""
