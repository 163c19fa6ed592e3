#!/usr/bin/env bash
# Loads a running Penstock, or starts one, and writes loadtest/out/*.json and loadtest/out/report.html. About two minutes.
#
#   loadtest/run.sh              everything
#   SECONDS_EACH=20 loadtest/run.sh   longer steps
#   SKIP_GHZ=1 loadtest/run.sh   without ghz, which needs Go to be installed
#
# PENSTOCK_HTTP and PENSTOCK_GRPC (host:port) say where the server is. Called by `make loadtest`.
set -uo pipefail
cd "$(dirname "$0")/.."

GHZ_VERSION=v0.121.0
http=${PENSTOCK_HTTP:-127.0.0.1:8000}
grpc=${PENSTOCK_GRPC:-127.0.0.1:8001}
echo_grpc=${LOADTEST_ECHO:-127.0.0.1:8101}
cache=${PENSTOCK_CACHE_DIR:-$HOME/.cache/penstock}
each=${SECONDS_EACH:-4}
target=${CARGO_TARGET_DIR:-target}
out=loadtest/out
tool=$target/release/penstock-loadtest
ghz=$cache/bin/ghz
failed=0
children=()
trap 'for child in "${children[@]}"; do kill "$child" 2>/dev/null; done' EXIT

say() { printf '\n== %s\n' "$*"; }
ready() { curl -fs -o /dev/null --max-time 2 "http://$http/v2/$1"; }

# The one place that knows how a server is started.
ensure_server() {
    ready health/ready && return
    local penstock=$target/release/penstock
    [ -x "$penstock" ] || { echo "no server answers on $http and $penstock is not built: make loadtest builds it" >&2; exit 1; }
    say "starting $penstock"
    # What is deployed on this machine is not part of what is measured.
    PENSTOCK_DATA_DIR="$out/data" "$penstock" serve ${PENSTOCK_SERVE_ARGS:-} >"$out/server.log" 2>&1 &
    children+=($!)
    for _ in $(seq 600); do
        ready health/ready && return
        kill -0 "${children[-1]}" 2>/dev/null || break
        sleep 0.2
    done
    echo "the server did not become ready; its last words:" >&2
    tail -n 20 "$out/server.log" >&2
    exit 1
}

ensure_ghz() {
    [ -x "$ghz" ] && return
    command -v go >/dev/null || { echo "ghz is skipped: installing it needs Go (https://go.dev/dl)" >&2; return 1; }
    say "installing ghz $GHZ_VERSION into $cache/bin"
    mkdir -p "$cache/bin"
    GOBIN=$(cd "$cache/bin" && pwd) go install "github.com/bojand/ghz/cmd/ghz@$GHZ_VERSION"
}

# load FILE NAME OPTIONS...: one scenario of ours.
load() {
    local file=$1 name=$2
    shift 2
    "$tool" run --name "$name" --seconds "$each" --json "$out/$file.json" "$@" || { failed=1; rm -f "$out/$file.json"; }
}

# prove FILE: one scenario of ghz's, over reflection, without a proto file.
prove() {
    echo "  ghz: $1"
    "$ghz" --config "loadtest/scenarios/$1.json" --format json --output "$out/$1.json" ${GHZ_FLAGS:-} "$grpc" ||
        { failed=1; rm -f "$out/$1.json"; return; }
    grep -q '"OK"' "$out/$1.json" || { echo "  ghz: $1: no call succeeded" >&2; failed=1; }
}

zeros() { head -c "$1" /dev/zero | base64 -w 0; }

# tensor MODEL INPUT DATATYPE ELEMENTS: a request of four bytes an element, all zero.
tensor() {
    printf '{"model_name":"%s","inputs":[{"name":"%s","datatype":"%s","shape":["1","%s"]}],"raw_input_contents":["%s"]}' \
        "$1" "$2" "$3" "$4" "$(zeros $(($4 * 4)))"
}

mkdir -p "$out"
rm -f "$out"/*.json
[ -x "$tool" ] && [ -z "${LOADTEST_BUILD:-}" ] || cargo build --release --quiet -p penstock-loadtest || exit 1
ensure_server

if ready models/identity/ready; then
    say "identity, gRPC, open loop"
    load 01-identity-16b "identity, gRPC, 16 B" --target "grpc://$grpc" --rps 500,2000,5000
    load 02-identity-64kib "identity, gRPC, 64 KiB" --target "grpc://$grpc" --rps 500 --tensor-bytes 65536
    load 03-identity-http "identity, HTTP binary, 16 B" --target "http://$http" --rps 1000
    say "identity, closed loop"
    load 04-identity-peak "identity, gRPC, 16 B, peak" --target "grpc://$grpc" --closed 1,8,64
    load 05-identity-stream "identity, gRPC stream, 16 B, peak" --target "grpc-stream://$grpc" --closed 64
    say "identity, more than it can do, deadline 20 ms"
    load 06-identity-overload "identity, gRPC, 16 B, overload" --target "grpc://$grpc" --rps 40000 --deadline-ms 20 \
        --max-in-flight 20000
    say "identity against a bare echo"
    "$tool" echo --listen "$echo_grpc" >/dev/null &
    children+=($!)
    sleep 0.3
    for closed in 1 64; do
        "$tool" compare --name "identity against a bare tonic echo" --a "grpc://$grpc" \
            --b "grpc://$echo_grpc" --closed $closed --rounds 6 --json "$out/07-echo-$closed.json" || failed=1
    done
fi
if ready models/minilm/ready; then
    say "minilm, embeddings"
    load 08-minilm-16 "minilm, embeddings, 16 tokens" --target "embeddings://$http" --tokens 16 --closed 1,8,32
    load 09-minilm-mixed "minilm, embeddings, 8 to 256 tokens" --target "embeddings://$http" --tokens lognormal:8-256 --rps 30
fi
if [ -z "${SKIP_GHZ:-}" ] && ensure_ghz; then
    say "ghz"
    tensor identity INPUT0 FP32 16384 >"$out/identity-64kib.data.json"
    tensor magika bytes INT32 2048 >"$out/magika.data.json"
    for scenario in identity-16b identity-16b-paced identity-64kib identity-stream; do
        ready models/identity/ready && prove "ghz-$scenario"
    done
    ready models/magika/ready && prove ghz-magika
    rm -f "$out"/*.data.json
fi

summaries=("$out"/*.json)
[ -e "${summaries[0]}" ] || { echo "no scenario ran: is a model loaded?" >&2; exit 1; }
"$tool" report --out "$out/report.html" --title "Penstock under load" "${summaries[@]}" || exit 1
exit $failed
