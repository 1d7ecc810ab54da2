"""RabbitMQ adapter of saga_choreo; found through the entry points `saga_choreo.brokers` for `amqp://` and `amqps://`."""
