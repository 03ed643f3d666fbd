# Debian's kernels and busybox, in a cache, as material for initial RAM disks.
# Sourced by ../../dev and ../../tests/rig/rig; needs apt, cpio and `set -e`, and no privileges.
# shellcheck shell=bash

cache=${XDG_CACHE_HOME:-${HOME:-$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")}/.cache}/godwit

# cached NAME COMMAND...: make sure that the cache holds folder NAME. COMMAND fills it in its current directory;
# the folder appears whole or not at all, and only one process at a time makes it.
cached() {
    [[ ! -d $cache/$1 ]] || return 0
    mkdir -p "$cache"
    (
        flock 9
        [[ ! -d $cache/$1 ]] || exit 0
        rm -rf "$cache/$1.new"
        mkdir "$cache/$1.new"
        cd "$cache/$1.new" || exit
        "${@:2}"
        mv -T "$cache/$1.new" "$cache/$1"
    ) 9>"$cache/lock"
}

# download META: fetch Debian package META, or the kernel package behind it, to the current directory. Should apt's package
# lists be missing or too old, it works with lists of its own in the cache, which takes no privileges.
download() {
    local options=(-qq -o APT::Sandbox::User=root)
    [[ ! -t 2 ]] || options[0]=-q=0
    echo "fetching Debian's $1" >&2
    try_download "$1" >&2 2>/dev/null && return
    options+=(-o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" -o Dir::Cache::pkgcache=
        -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none -o Acquire::GzipIndexes=true)
    try_download "$1" >&2 2>/dev/null && return
    echo "apt's package lists are missing or old: fetching new ones" >&2
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
    apt-get "${options[@]}" update >&2
    try_download "$1" >&2
}

try_download() {
    local package
    package=$(apt-cache "${options[@]:1}" depends "$1" | sed -n 's/^  Depends: \(linux-image-.*\)/\1/p')
    apt-get "${options[@]}" download "${package:-$1}"
}

# unpack_kernel META: leave vmlinuz, release (the version's name) and lib/modules of the kernel package behind META.
unpack_kernel() {
    local driver skip=()
    for driver in gpu media net/ethernet net/wireless infiniband iio scsi usb; do
        skip+=("--exclude=*/drivers/$driver/*")
    done
    download "$1"
    dpkg-deb --fsys-tarfile ./*.deb | tar -x "${skip[@]}" --exclude='*/sound/*' ./boot ./lib/modules
    ls lib/modules >release
    mv boot/vmlinuz-* vmlinuz
    rm -rf boot ./*.deb
    "$cache/busybox/bin/busybox" depmod -b . "$(<release)"
}

unpack_busybox() {
    download busybox-static
    dpkg-deb -x ./*.deb .
    rm -rf usr ./*.deb
}

# fetch_kernel META: bring the kernel behind META, and the busybox that goes with it, to the cache.
fetch_kernel() {
    cached busybox unpack_busybox
    cached "$1" unpack_kernel "$1"
}

# modules_of META NAME...: print the files of these modules and of all they depend on, in the order in which they load.
# What the kernel does not have as a module it has built in, or does without.
modules_of() {
    local tree name
    tree=lib/modules/$(<"$cache/$1/release")
    for name in "${@:2}"; do
        # A line of modules.dep reads "module: dependencies", where those that load first stand last.
        sed -n "s|^\(\S*/$name\.ko\):|\1|p" "$cache/$1/$tree/modules.dep" | tr -s ' ' '\n' | tac
    done | awk -v tree="$tree" '!seen[$0]++ { print tree "/" $0 }'
}

# write_initrd META ROOT NAME...: print folder ROOT as an initial RAM disk, with busybox and with these modules of kernel
# META, which the file /modules lists. It is not compressed: unpacking takes longer than reading.
write_initrd() {
    local kernel=$cache/$1 root=$2 modules
    mapfile -t modules < <(modules_of "$1" "${@:3}")
    mkdir -p "$root"/{bin,dev,proc,sys}
    cp "$cache/busybox/bin/busybox" "$root/bin"
    (cd "$kernel" && cp --parents -t "$root" "${modules[@]}")
    printf '/%s\n' "${modules[@]}" >"$root/modules"
    (cd "$root" && find . | cpio -o -H newc --quiet)
}
