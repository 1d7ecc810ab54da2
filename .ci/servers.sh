#!/bin/sh
# Install the servers that tests need, where they are missing and can be installed; the wheels bring the others. Starts nothing.
# What cannot be had here is said, and is no failure: SAGA_REQUIRE_SERVERS decides that when the tests run.
# Usage: servers.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."

[ -n "${SAGA_TEST_RABBITMQ_URL:-}" ] || sh .ci/rabbitmq.sh || echo "RabbitMQ could not be installed." >&2
[ -n "${SAGA_TEST_KAFKA_URL:-}" ] || sh .ci/kafka.sh "$@" >/dev/null || echo "Kafka could not be installed." >&2
