"""NATS JetStream as a broker of saga_choreo."""
