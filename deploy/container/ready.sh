#!/usr/bin/env bash
# The container's health: succeeds if the server is ready, fails while it loads or drains. Needs no key, and nothing but bash.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${PENSTOCK_HTTP##*:}"
printf 'GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]
