#!/bin/bash
# The first thing that an instance runs, as root: fetches Penstock's agent, checks it, and starts it with what it is told. The
# machine is powered off when the agent ends or cannot be started, and that ends the instance. Words between @ are filled in by
# the server.
set -euo pipefail
umask 077

power_off() {
    status=$?
    echo "penstock: the agent is not started (status $status): the machine is powered off" >&2
    sync
    systemctl poweroff --no-block || poweroff --force
}
trap power_off EXIT

case "$(uname -m)" in
    x86_64) uri='@X86_URI@' sha256='@X86_SHA256@' ;;
    aarch64) uri='@ARM_URI@' sha256='@ARM_SHA256@' ;;
    *) uri='' sha256='' ;;
esac
if [ -z "$uri" ]; then
    echo "penstock: there is no agent for $(uname -m)" >&2
    exit 1
fi

# What it is told: it has a secret in it, which is good for joining once.
install -d -m 700 /run/penstock
base64 --decode > /run/penstock/told.json <<'TOLD'
@TOLD@
TOLD

folder=/opt/penstock
install -d -m 755 "$folder"
file="$folder/fetched"

fetch() {
    case "$uri" in
        s3://*) timeout 300 aws s3 cp --no-progress --region '@REGION@' "$uri" "$file" ;;
        *) curl --fail --silent --show-error --location --proto '=https' --max-time 300 --output "$file" "$uri" ;;
    esac
}

# The instance profile and the network may take a moment.
for attempt in 1 2 3 4 5 6; do
    if fetch && echo "$sha256  $file" | sha256sum --check --status; then
        break
    fi
    echo "penstock: the agent cannot be fetched from $uri, or is another than $sha256 (attempt $attempt)" >&2
    rm -f "$file"
    sleep $((attempt * 2))
done
[ -f "$file" ]

umask 022
case "$uri" in
    *.tar.gz) tar --extract --gzip --no-same-owner --file "$file" --directory "$folder" ;;
    *) install -m 755 "$file" "$folder/penstock" ;;
esac
rm -f "$file"
test -x "$folder/penstock"

# A unit of its own: it outlives this script, and whatever becomes of it the machine is powered off.
systemd-run --quiet --unit=penstock-agent --description="Penstock's agent" \
    --property=StandardInput=file:/run/penstock/told.json \
    --property=ExecStopPost="$(command -v systemctl) poweroff --no-block" \
    --property=KillMode=mixed --property=TimeoutStopSec=100 --property=OOMPolicy=continue \
    --property=Delegate=yes --property=LimitNOFILE=1048576 \
    "$folder/penstock" @ARGUMENTS@
trap - EXIT
