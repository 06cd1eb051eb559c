#!/bin/sh
# Gives the members of a group cardlab what of it needs root, and takes it away again. As root:
#   rights.sh install [FOLDER]   sudoers line and udev rule; FOLDER is where cardlab is installed, else /opt/cardlab
#   rights.sh remove             both are gone; the group stays
# Then: usermod -aG cardlab USER, and log in anew.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
etc=${ETC:-/etc}
sys=${SYS:-/sys}
sudoers=$etc/sudoers.d/cardlab
rule=$etc/udev/rules.d/70-cardlab.rules

fail() {
    echo "error: $1; $2" >&2
    exit 1
}

# Whoever can change the program, or a folder above it, can do anything with it.
refuse_writable() {
    path=$(readlink -f "$1")
    while :; do
        [ "$(stat -c %u "$path")" = 0 ] && [ -z "$(find "$path" -maxdepth 0 -perm /022)" ] ||
            fail "$path can be changed by others than root" "install cardlab as root, for example into /opt/cardlab"
        [ "$path" != / ] || break
        path=$(dirname "$path")
    done
}

# A rule holds for what is added; counters that are there already are shown to it once more.
retrigger() {
    command -v udevadm > /dev/null || return 0
    udevadm control --reload
    udevadm trigger --action=add --subsystem-match=powercap
}

[ "$(id -u)" = 0 ] || fail "this needs root" "run: sudo sh $0 ${1:-install}"
case ${1:-} in
install)
    folder=${2:-/opt/cardlab}
    helper=$folder/bin/cardlab-clock-helper
    [ -x "$helper" ] || fail "there is no $helper" "name the folder that cardlab is installed in: rights.sh install FOLDER"
    command -v visudo > /dev/null || fail "there is no sudo here" "apt install sudo"
    refuse_writable "$helper"
    refuse_writable "$folder/bin/python"
    # An editable installation runs what lies in somebody's checkout.
    refuse_writable "$("$folder/bin/python" -I -c 'import importlib.util as u; print(u.find_spec("cardlab").origin)')"
    getent group cardlab > /dev/null || groupadd --system cardlab
    new=$(mktemp)
    trap 'rm -f "$new"' EXIT
    sed "s|/opt/cardlab/bin/|$folder/bin/|" "$here/cardlab.sudoers" > "$new"
    # A file with a mistake would lock everybody out of sudo.
    visudo -c -q -f "$new" || fail "visudo refuses the line for $helper" "choose a folder without special characters"
    install -D -m 0440 "$new" "$sudoers"
    install -D -m 0644 "$here/70-cardlab.rules" "$rule"
    retrigger
    echo "installed $sudoers and $rule; now: usermod -aG cardlab USER, and log in anew"
    ;;
remove)
    rm -f "$sudoers" "$rule"
    for counter in "$sys"/class/powercap/intel-rapl*:*/energy_uj; do
        [ ! -e "$counter" ] || { chgrp root "$counter" && chmod g-r "$counter"; }
    done
    ! command -v udevadm > /dev/null || udevadm control --reload
    echo "removed $sudoers and $rule"
    ;;
*)
    fail "what is to be done?" "rights.sh install [FOLDER], or rights.sh remove"
    ;;
esac
