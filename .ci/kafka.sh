#!/bin/sh
# Have what tests need to run a real Kafka: Java 17 or newer, Maven, and the jars in the user's cache. Safe to call again.
# Usage: kafka.sh [PYTHON]    (as root on Debian and Ubuntu missing packages are installed; elsewhere it says what to install)
set -eu
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}

if ! command -v java >/dev/null 2>&1 || ! command -v mvn >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Kafka needs Java 17 or newer and Maven: install default-jre-headless and maven (or what they are called here)." >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless maven >/dev/null
fi
exec "$python" -m saga_choreo.testing.kafka_jars
