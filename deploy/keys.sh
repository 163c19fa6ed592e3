#!/usr/bin/env bash
# Makes the secrets of a server into a folder: keys.sh FOLDER. Replaces none that are there.
#
#   keys.toml          auth.keys_file: a key that deploys and signs, one that invokes, one for metrics
#   metrics-token      the last one alone, for Prometheus
#   grafana-password   the first password of Grafana's admin
#
# The folder is its owner's alone, and the files in it can be read by whoever gets at them: a container sees the file that is
# mounted, as another user, and nobody else gets into the folder.
set -euo pipefail
[ $# = 1 ] || {
    echo "usage: keys.sh FOLDER" >&2
    exit 64
}
folder=$1
[ ! -e "$folder/keys.toml" ] || {
    echo "keys.sh: $folder/keys.toml is there already" >&2
    exit 1
}
mkdir -p "$folder"
chmod 700 "$folder"

hex() {
    head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

metrics=$(hex 24)
id=PENSTOCK$(hex 6 | tr a-f A-F)
operate=$(hex 24)
cat >"$folder/keys.toml" <<END
# Deploys, with a signature: AWS_ACCESS_KEY_ID is the id, AWS_SECRET_ACCESS_KEY the secret.
[[keys]]
id = "$id"
secret = "$operate"
scope = "operate"

# Asks models: Authorization: Bearer SECRET.
[[keys]]
secret = "$(hex 24)"
scope = "invoke"

# Reads metrics, which wants the scope of those who operate.
[[keys]]
secret = "$metrics"
scope = "operate"
END
printf %s "$metrics" >"$folder/metrics-token"
hex 12 >"$folder/grafana-password"
chmod 644 "$folder/keys.toml" "$folder/metrics-token" "$folder/grafana-password"
echo "keys.sh: wrote keys.toml, metrics-token and grafana-password into $folder"
