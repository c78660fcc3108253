# shellcheck shell=bash
# Functions shared by the scripts; sourced, never run.

say() { echo "$*" >&2; }

die() {
    say "$*"
    exit 1
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        die "'$*' needs root and there is no sudo: run this as root."
    fi
}

default_cache_dir() { echo "${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/zecorx-vhost"; }

source_dir() { readlink -f "$(dirname "${BASH_SOURCE[0]}")/../.."; }

default_build_dir() { echo "${BUILD_DIR:-$(source_dir)/build}"; }

# Configures the build directory $1 if that was not done yet; further arguments go to meson.
configure() {
    local dir=$1
    shift
    [[ -f $dir/build.ninja ]] || meson setup "$dir" "$(source_dir)" "$@" >&2
}

# Configures $1 to build the fuzz targets. Tracing comparisons would take a third of the time, and the
# inputs have no magic numbers to be found by it.
configure_fuzz() {
    CC=clang CXX=clang++ configure "$1" -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
        "-Dcpp_args=-fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp -fno-sanitize-recover=all"
}

hugepages_file=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages

# Makes at least $1 2 MiB pages free, for as long as the script runs: restore_hugepages undoes it.
reserve_hugepages() {
    local wanted=$1 total free
    total=$(< "$hugepages_file")
    free=$(< "${hugepages_file%/*}/free_hugepages")
    ((free < wanted)) || return 0
    hugepages_before=$total
    as_root tee "$hugepages_file" <<< $((total + wanted - free)) > /dev/null
    free=$(< "${hugepages_file%/*}/free_hugepages")
    ((free >= wanted)) ||
        die "Wanted $wanted free 2 MiB huge pages, the kernel gave $free: free some memory."
}

restore_hugepages() {
    [[ -z ${hugepages_before:-} ]] || as_root tee "$hugepages_file" <<< "$hugepages_before" > /dev/null
}
