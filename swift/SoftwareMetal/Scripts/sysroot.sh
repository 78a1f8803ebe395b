#!/bin/sh
# Makes a Debian 13 root with Swift 6, clang 19 and GNUstep in DIR, for machines whose distribution is older. Run as root,
# with debootstrap installed.
#   sysroot.sh DIR            make it
#   sysroot.sh DIR COMMAND…   make it if needed, then run COMMAND in it, in the current folder
# SYSROOT_PACKAGES names other packages than Swift's; SYSROOT_FOLDERS, a list separated by colons, names more folders that COMMAND must see.
set -eu
# What is mounted here is gone when this script ends: nobody deletes a mounted folder by deleting DIR.
if [ -z "${SYSROOT_UNSHARED:-}" ]; then
  SYSROOT_UNSHARED=1 exec unshare --mount --propagation private "$0" "$@"
fi
root=${1:?usage: sysroot.sh DIR [COMMAND…]}
shift
packages=${SYSROOT_PACKAGES:-"swiftlang clang-19 clang-tools-19 libc6-dev g++ git ca-certificates gobjc gnustep-devel libclang-rt-19-dev make cmake"}
# Holds the packages that are there: a root with fewer of them is completed.
done="$root/.software-metal"
if [ ! -e "$done" ]; then
  # What an interrupted run left is no root to build on.
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase trixie "$root"
fi
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
if [ "$(cat "$done" 2>/dev/null)" != "$packages" ]; then
  chroot "$root" sh -c "export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get install -y --no-install-recommends $packages && apt-get clean"
  echo "$packages" >"$done"
  # Authorities that this machine alone knows, such as a company's, count inside too.
  cat /etc/ssl/certs/ca-certificates.crt >"$root/etc/ssl/certs/ca-certificates.crt" 2>/dev/null || true
fi
[ $# -gt 0 ] || exit 0
here=$(pwd)
IFS=:
for folder in $here ${SYSROOT_FOLDERS:-}; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
done
exec chroot "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$here" "$@"
