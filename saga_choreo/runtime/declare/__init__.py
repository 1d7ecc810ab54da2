"""What users write: decorators, annotations, compensations and injected dependencies, read once and frozen into plans."""
