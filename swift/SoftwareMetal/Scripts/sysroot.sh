#!/bin/sh
# Makes a Debian 13 root with Swift 6, clang 19 and GNUstep in DIR, for machines whose distribution is older. Run as root,
# with debootstrap installed.
#   sysroot.sh DIR            make it
#   sysroot.sh DIR COMMAND…   make it if needed, then run COMMAND in it, in the current folder
# SYSROOT_PACKAGES names other packages than Swift's; SYSROOT_FOLDERS, a list separated by colons, names more folders that COMMAND
# must see; SYSROOT_CACHE is where downloaded packages are kept for the next root (~/.cache/umfa/debian).
set -eu
# What is mounted here is gone when this script ends: nobody deletes a mounted folder by deleting DIR.
if [ -z "${SYSROOT_UNSHARED:-}" ]; then
  SYSROOT_UNSHARED=1 exec unshare --mount --propagation private "$0" "$@"
fi
root=${1:?usage: sysroot.sh DIR [COMMAND…]}
shift
packages=${SYSROOT_PACKAGES:-"swiftlang clang-19 libc6-dev g++ git ca-certificates gobjc gnustep-make libgnustep-base-dev libclang-rt-19-dev make cmake"}
cache=${SYSROOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/umfa/debian}
mkdir -p "$cache/partial" "$(dirname "$root")"
cache=$(cd "$cache" && pwd)

# The smallest Debian, from which every root in this folder begins.
base="$(dirname "$root")/debian"
make_base() {
  if [ ! -e "$base/.complete" ]; then
    rm -rf "$base"
    debootstrap --variant=minbase --cache-dir="$cache" trixie "$base"
    # Nobody reads manuals in a root, debugs, or compiles for other processors; and a root that a power cut spoils is made again.
    for path in /usr/share/doc /usr/share/man /usr/share/locale /usr/libexec/swift/lib/swift/embedded /usr/libexec/swift/lib/swift_static; do
      echo "path-exclude=$path/*"
    done >"$base/etc/dpkg/dpkg.cfg.d/root"
    for path in 'lib/liblldb*' 'bin/*lldb*' 'bin/clangd' 'bin/docc' 'bin/sourcekit-lsp' 'lib/libsourcekitdInProc.so'; do
      echo "path-exclude=/usr/libexec/swift/$path"
    done >>"$base/etc/dpkg/dpkg.cfg.d/root"
    echo force-unsafe-io >>"$base/etc/dpkg/dpkg.cfg.d/root"
    # Packages are kept, in the folder that is mounted here.
    rm -f "$base/etc/apt/apt.conf.d/docker-clean"
    echo 'Acquire::Languages "none";' >"$base/etc/apt/apt.conf.d/root"
    touch "$base/.complete"
  fi
}

# Holds the packages that are there: a root with fewer of them is completed.
done="$root/.software-metal"
if [ ! -e "$done" ]; then
  # Two roots may be made at once.
  (flock 9; make_base) 9>"$base.lock"
  # What an interrupted run left is no root to build on.
  rm -rf "$root"
  cp -a --reflink=auto "$base" "$root"
fi
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp /etc/resolv.conf "$root/etc/resolv.conf"
if [ "$(cat "$done" 2>/dev/null)" != "$packages" ]; then
  mount --bind "$cache" "$root/var/cache/apt/archives"
  # Packages of another root may be fetched at the same time: apt locks their folder.
  chroot "$root" sh -c "export DEBIAN_FRONTEND=noninteractive; apt-get update && apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=-1 $packages"
  umount "$root/var/cache/apt/archives"
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
