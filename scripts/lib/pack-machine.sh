# shellcheck shell=bash
# Functions that pack what a machine under QEMU boots: a busybox, kernel modules, programs with their
# libraries and DPDK's plugins. Sourced after common.sh, never run. `kernel` and `root` are the
# caller's: the kernel as fetch-guest-kernel prints it, and the directory that becomes the initramfs.

begin_initramfs() {
    chmod 755 "$root"
    # As Debian has it: what asks for a library in /lib finds the one in /usr/lib.
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,root,modules,usr/bin,usr/lib,usr/lib64}
    ln -s usr/lib usr/lib64 "$root"
    mkdir "$root/var"
    ln -s ../run "$root/var/run"
    install -m 755 "$(command -v busybox)" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 644 "$(source_dir)/scripts/lib/machine-init.sh" "$root/machine-init.sh"
}

# The module $1 and, before it, those it needs: modules/order has them in load order.
pack_module() {
    # Files and lists of dependencies do not agree on - and _.
    local pattern=${1//[-_]/[-_]} file dependency
    local name=${1//-/_}
    local packed=$root/modules/$name.ko
    [[ ! -e $packed ]] || return 0
    file=$(find "$kernel/lib/modules" -name "$pattern.ko*" -print -quit)
    case $file in
        '') die "The kernel in $kernel has no module $1: fetch another with fetch-guest-kernel --refresh." ;;
        *.ko) install -m 644 "$file" "$packed" ;;
        *.ko.xz) xz -dc "$file" > "$packed" ;;
        *) die "Module $file is compressed in a way this script does not know." ;;
    esac
    for dependency in $(module_dependencies "$packed"); do pack_module "$dependency"; done
    echo "$name" >> "$root/modules/order"
}

# From the module's own words, since kmod is not installed everywhere.
module_dependencies() {
    tr '\0' '\n' < "$1" | sed -n 's/^depends=//p' | tr , ' '
}

# The file $1 at its own path. What is reached by several names stays one file: a DPDK plugin that is
# loaded twice registers its drivers twice.
pack_library() {
    local real
    real=$(readlink -f "$1")
    [[ -e $root$real ]] || install -D -m 755 --strip "$real" "$root$real"
    [[ -e $root$1 ]] || { mkdir -p "$root${1%/*}" && ln -s "$real" "$root$1"; }
}

# The shared libraries of $1.
pack_libraries_of() {
    local libraries library
    libraries=$(ldd "$1")
    [[ $libraries != *'not found'* ]] || die "Libraries of $1 are missing, see ldd: run install-deps."
    for library in $(awk '$2 == "=>" { print $3 } $1 ~ "^/" { print $1 }' <<< "$libraries"); do
        pack_library "$library"
    done
}

# QEMU and what it needs to boot Linux.
pack_qemu() {
    local file
    pack_program "$(command -v qemu-system-x86_64)"
    for file in /usr/share/seabios/bios-256k.bin /usr/share/qemu/{kvmvapic,linuxboot_dma}.bin; do
        [[ -e $file ]] || die "QEMU's $file is missing: run install-deps."
        install -D -m 644 "$file" "$root$file"
    done
}

# The program $1 as /usr/bin/NAME.
pack_program() {
    install -m 755 --strip "$1" "$root/usr/bin/${1##*/}"
    pack_libraries_of "$1"
}

# DPDK's plugin $1, as bus_pci, where EAL looks for plugins.
pack_plugin() {
    local directory
    directory=$(dpdk_plugin_directory)
    local plugin
    for plugin in "$directory/librte_$1".so.*; do
        [[ -e $plugin ]] || die "DPDK has no plugin $1 in $directory: install it with install-deps."
        pack_library "$plugin"
        pack_libraries_of "$plugin"
    done
}

dpdk_plugin_directory() {
    local directories=(/usr/lib/*-linux-gnu/dpdk/pmds-*)
    [[ -d ${directories[0]} ]] || die "DPDK's plugins are missing: run install-deps."
    echo "${directories[0]}"
}

# After all programs: where the loader finds libraries, as on this machine.
index_libraries() {
    local directory plugin
    directory=$(dpdk_plugin_directory)
    # EAL loads all plugins there are, also those that a program brought along, and they need each other.
    for plugin in "$root$directory"/*.so.*; do
        pack_library "${directory%/dpdk/*}/${plugin##*/}"
    done
    # Loaded by name when a thread ends.
    pack_library "$(ldconfig -p | awk '$1 == "libgcc_s.so.1" { print $NF; exit }')"
    mkdir -p "$root/etc"
    cp -r /etc/ld.so.conf /etc/ld.so.conf.d "$root/etc/"
    ldconfig -r "$root"
}

# Writes the initramfs $1.
finish_initramfs() {
    (cd "$root" && find . | LC_ALL=C sort | cpio --create --format=newc --owner=0:0 --quiet) > "$1.new"
    mv "$1.new" "$1"
}

# Copies the kernel to $1.
copy_kernel() {
    install -m 644 "$(find "$kernel/boot" -name 'vmlinuz-*' -print -quit)" "$1"
}
