# shellcheck shell=bash disable=SC2034  # whoever sources this uses the variables
# What the scripts that prepare a host know of it; sourced after common.sh, never run. SYSFS_ROOT and
# PROC_ROOT stand for /sys and /proc, for the scripts to be tested on a tree of files.

sysfs=${SYSFS_ROOT:-/sys}
proc=${PROC_ROOT:-/proc}
pci=$sysfs/bus/pci

# The first line of the file $1; nothing if it cannot be read.
attribute() {
    local line=
    if [[ -r $1 ]]; then read -r line < "$1" || true; fi 2> /dev/null
    echo "$line"
}

# put VALUE FILE: writes as root. If that fails the reason is in $why.
put() {
    why=$(as_root tee "$2" <<< "$1" 2>&1 > /dev/null) && return
    why=${why##*: }
    return 1
}

# The name that the symbolic link $1 points to; nothing if there is none.
target_of() {
    local target
    target=$(readlink "$1") || return 0
    echo "${target##*/}"
}

# The PCI address $1, which may lack its domain, as sysfs writes it.
full_bdf() {
    local bdf=${1,,}
    [[ $bdf == *:*:* ]] || bdf=0000:$bdf
    [[ $bdf =~ ^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] ||
        die "'$1' is no PCI address: write it as 0000:03:00.0 or 03:00.0; 'lspci -D' lists them."
    echo "$bdf"
}

# What follows takes the full address of a PCI device.

driver_of() { target_of "$pci/devices/$1/driver"; }

is_ethernet() { [[ $(attribute "$pci/devices/$1/class") == 0x0200* ]]; }

ethernet_devices() {
    local device
    for device in "$pci"/devices/*; do
        is_ethernet "${device##*/}" && echo "${device##*/}"
    done
    return 0
}

# vendor:device
pci_id_of() {
    local vendor device
    vendor=$(attribute "$pci/devices/$1/vendor")
    device=$(attribute "$pci/devices/$1/device")
    echo "${vendor#0x}:${device#0x}"
}

# Those that the kernel has made of it, in this network namespace; of a virtio NIC its child has it.
interfaces_of() {
    local path
    for path in "$pci/devices/$1"/net/* "$pci/devices/$1"/virtio*/net/*; do
        [[ ! -e $path ]] || echo "${path##*/}"
    done
}

# The number of the IOMMU group that separates it from the host's memory; nothing if none does, as in
# VFIO's no-IOMMU mode, whose groups are groups in name only.
iommu_group_of() {
    local group=$pci/devices/$1/iommu_group
    [[ $(attribute "$group/name") == vfio-noiommu ]] || target_of "$group"
}

# Whether VFIO takes devices that no IOMMU watches.
noiommu_mode() {
    [[ $(attribute "$sysfs/module/vfio/parameters/enable_unsafe_noiommu_mode") == [Y1] ]]
}

enable_iommu="enable the IOMMU (VT-d, AMD-Vi) in the BIOS and boot with intel_iommu=on or amd_iommu=on"

hugepages=$sysfs/kernel/mm/hugepages

# The sizes of huge pages that this kernel has, in KiB, ascending.
huge_page_sizes() {
    local directory size
    for directory in "$hugepages"/hugepages-*kB; do
        size=${directory##*/hugepages-}
        [[ ! -d $directory ]] || echo "${size%kB}"
    done | sort -n
}

# The size $1 in KiB as people write it.
size_name() {
    if (($1 >= 1048576)); then echo "$(($1 / 1048576)) GiB"; else echo "$(($1 / 1024)) MiB"; fi
}

# Where huge pages are counted: a directory of each NUMA node, or one of the whole machine.
huge_page_places() {
    local directory found=false
    for directory in "$sysfs"/devices/system/node/node*/hugepages; do
        [[ ! -d $directory ]] || { found=true; echo "$directory"; }
    done
    $found || echo "$hugepages"
}

# What reports call such a directory.
place_name() {
    local node=${1%/hugepages}
    node=${node##*/}
    if [[ $node == node* ]]; then echo "node ${node#node}"; else echo "all nodes"; fi
}

# The number in the file $2 of the pages of $1 KiB, in the directory $3 or of all nodes; 0 if missing.
huge_page_count() {
    local count
    count=$(attribute "${3:-$hugepages}/hugepages-$1kB/$2")
    echo "${count:-0}"
}
