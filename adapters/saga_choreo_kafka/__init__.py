"""Apache Kafka adapter of saga_choreo; found through the entry points `saga_choreo.brokers` for `kafka://` and `kafka+ssl://`."""
