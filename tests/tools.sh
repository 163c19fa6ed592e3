#!/usr/bin/env bash
# Installs the tools that tests use into the cache, pinned; does nothing for one that is there. Usage: tools.sh NAME...
set -euo pipefail
cache=${PENSTOCK_CACHE_DIR:-$HOME/.cache/penstock}
bin=$cache/bin
mkdir -p "$bin"

ghz_version=v0.93.0
cargo_deny_version=0.20.2

install_ghz() {
    echo "installing ghz $ghz_version"
    GOBIN=$bin go install "github.com/bojand/ghz/cmd/ghz@$ghz_version"
}

install_cargo-deny() {
    echo "building cargo-deny $cargo_deny_version (some minutes, once)"
    cargo install --quiet --locked --root "$cache" --version "$cargo_deny_version" cargo-deny
}

# Debian's own package, unpacked without installing it.
install_prometheus() {
    echo "fetching prometheus from the distribution"
    local folder
    folder=$(mktemp -d)
    (
        cd "$folder"
        apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
        dpkg-deb -x prometheus_*.deb .
        install usr/bin/prometheus usr/bin/promtool "$bin/"
    )
    rm -rf "$folder"
}

for tool in "$@"; do
    [ -x "$bin/$tool" ] || "install_$tool"
done
