#!/bin/sh
# Makes a Debian 13 root with Swift 6 and clang 19 in DIR, for machines whose distribution is older. Run as root.
#   sysroot.sh DIR            make it
#   sysroot.sh DIR COMMAND…   make it if needed, then run COMMAND in it, in the current folder
set -eu
root=${1:?usage: sysroot.sh DIR [COMMAND…]}
shift
packages="swiftlang clang-19 clang-tools-19 libc6-dev g++ git ca-certificates python3-numpy python3-pytest"
[ -d "$root/usr" ] || debootstrap --variant=minbase trixie "$root"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
if [ ! -e "$root/.software-metal" ]; then
  chroot "$root" sh -c "export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get install -y --no-install-recommends $packages"
  touch "$root/.software-metal"
fi
[ $# -gt 0 ] || exit 0
here=$(pwd)
mkdir -p "$root$here"
mountpoint -q "$root$here" || mount --bind "$here" "$root$here"
exec chroot "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$here" "$@"
