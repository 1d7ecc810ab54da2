"""The command `saga-choreo`. Imported by nothing; may import all else (of `testing` only the demo does)."""
