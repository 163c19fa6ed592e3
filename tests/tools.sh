#!/usr/bin/env bash
# Installs the tools that tests use into the cache, pinned; does nothing for one that is there in the version wanted.
# Usage: tools.sh NAME...
#
# ghz wants Go, cargo-deny wants Cargo, prometheus wants a Debian system. Nothing needs root where
# the distribution's package lists are there.
set -euo pipefail
cache=${PENSTOCK_CACHE_DIR:-$HOME/.cache/penstock}
mkdir -p "$cache/bin"
bin=$(cd "$cache/bin" && pwd) # `go install` refuses a relative path

ghz_version=v0.121.0 # the same as in loadtest/run.sh
cargo_deny_version=0.20.2

fail() {
    echo "tests/tools.sh: $*" >&2
    exit 1
}

install_ghz() {
    command -v go >/dev/null || fail "installing ghz needs Go: https://go.dev/dl"
    echo "installing ghz $ghz_version"
    GOBIN=$bin go install "github.com/bojand/ghz/cmd/ghz@$ghz_version"
}

install_cargo-deny() {
    echo "building cargo-deny $cargo_deny_version (some minutes, once)"
    cargo install --quiet --locked --force --root "$cache" --version "$cargo_deny_version" cargo-deny
}

# Debian's own package, unpacked without installing it.
install_prometheus() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "prometheus is taken from Debian's archive, and this system has no apt-get: put prometheus and promtool into $bin"
    echo "fetching prometheus from the distribution"
    local folder
    folder=$(mktemp -d)
    # apt fetches as its own user, which must be able to write here; it warns and goes on as root where it cannot.
    chmod 755 "$folder"
    (
        cd "$folder"
        apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
        dpkg-deb -x prometheus_*.deb .
        install usr/bin/prometheus usr/bin/promtool "$bin/"
    )
    rm -rf "$folder"
}

for tool in "$@"; do
    declare -F "install_$tool" >/dev/null || fail "there is no tool '$tool'"
    version_name=${tool//-/_}_version
    # No version: whichever there is will do.
    stamp=$bin/.$tool-${!version_name:-any}
    [ -x "$bin/$tool" ] && [ -z "${!version_name:-}" -o -e "$stamp" ] && continue
    "install_$tool"
    rm -f "$bin/.$tool"-*
    [ -z "${!version_name:-}" ] || touch "$stamp"
done
