"""Where decisions meet the world: agent, pipeline (read first), consumer, relay, timers, directory, settings."""
