#!/bin/sh
# Install a RabbitMQ server for the tests where there is none and apt can: Debian, Ubuntu. Needs root; starts nothing.
set -eu

[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "RabbitMQ is not installed and cannot be here (that takes apt-get and root): its tests are skipped." >&2
    exit 0
fi

# The package would start a server for the whole machine; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null
