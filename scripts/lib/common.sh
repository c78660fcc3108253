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

# The tests that sanitizers are for, of a suite: those of executables of this project.
sanitized_tests() {
    case $1 in
        unit) echo unit differential soft82599_unit vhost_user_unit cli_unit guest_selftest ;;
        integration)
            echo integration hostile isolation memory_lock restarting_port steering transmit_offload jumbo soft82599_ixgbe \
                soft82599_machine
            ;;
    esac
}

# Configures $2 to build the tests with the sanitizers of kind $1, address or thread. -O1 and clang,
# because most of the time goes into compiling; with address also what scripts/coverage needs, for it
# not to compile everything once more.
configure_sanitizer() {
    local sanitizers=$1 coverage=
    if [[ $1 == address ]]; then
        sanitizers=address,undefined
        coverage="-fprofile-instr-generate -fcoverage-mapping"
    fi
    CC=clang CXX=clang++ configure "$2" -Db_sanitize="$sanitizers" -Db_lundef=false --buildtype=plain \
        "-Dcpp_args=-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all $coverage" \
        "-Dcpp_link_args=${coverage% *}"
}

# What tests run with that were built so. The software NIC handles SIGSEGV for itself.
sanitizer_environment() {
    case $1 in
        address)
            echo "ASAN_OPTIONS=detect_stack_use_after_return=1:handle_segv=0:allow_user_segv_handler=1"
            echo "UBSAN_OPTIONS=print_stacktrace=1"
            echo "LLVM_PROFILE_FILE=/dev/null"
            ;;
        thread)
            echo "TSAN_OPTIONS=handle_segv=0:allow_user_segv_handler=1:suppressions=$(source_dir)/test/thread.supp"
            ;;
    esac
}

hugepages_file=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages

# Makes at least $1 2 MiB pages free, for as long as the script runs: restore_hugepages undoes it.
reserve_hugepages() {
    local wanted=$1 total free
    total=$(< "$hugepages_file")
    free=$(< "${hugepages_file%/*}/free_hugepages")
    ((free < wanted)) || return 0
    hugepages_before=${hugepages_before:-$total}
    as_root tee "$hugepages_file" <<< $((total + wanted - free)) > /dev/null
    free=$(< "${hugepages_file%/*}/free_hugepages")
    ((free >= wanted)) ||
        die "Wanted $wanted free 2 MiB huge pages, the kernel gave $free: free some memory."
}

restore_hugepages() {
    [[ -z ${hugepages_before:-} ]] || as_root tee "$hugepages_file" <<< "$hugepages_before" > /dev/null
}
