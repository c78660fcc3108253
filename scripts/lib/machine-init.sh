# shellcheck shell=sh
# What PID 1 does in every machine of the tests; sourced by its init, never run.

/bin/busybox --install -s /bin

mount_system() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
}

# Prints the value of the kernel command line's word NAME=VALUE.
kernel_word() {
    tr ' ' '\n' < /proc/cmdline | sed -n "s/^$1=//p"
}

# ttyS1, where a program sends shell commands and gets their output without kernel messages in
# between. Opened first and kept open, so that what is sent before the shell runs is not lost.
open_control_port() {
    stty -F /dev/ttyS1 raw -echo 2> /dev/null || return 0
    exec 3<> /dev/ttyS1
    control_port=yes
}

load_modules() {
    while read -r module; do
        insmod "/modules/$module.ko"
    done < /modules/order
}

serve_control_port() {
    [ "$control_port" = yes ] || return 0
    # Through cat, as on a terminal the shell would prompt and echo.
    { echo; echo '@@READY'; sh; } <&3 2>&1 | cat >&3 &
}

# An interactive shell on the console; the machine ends with it.
serve_console() {
    cd /root || exit
    setsid cttyhack sh
    poweroff -f
}
