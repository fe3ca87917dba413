# SPDX-License-Identifier: BSD-3-Clause
# Sourced by quickstart and check: which Debian packages are needed, and installing those that are missing.

packages_build="gcc libc6-dev meson ninja-build pkg-config python3 libaio-dev liburing-dev uuid-dev libjansson-dev libsystemd-dev libncurses-dev libssl-dev libnbd-dev libiscsi-dev libgnutls28-dev libisal-dev zlib1g-dev libzstd-dev"
case "$(uname -m)" in
aarch64) packages_guest="qemu-system-arm e2fsprogs" ;;
*) packages_guest="qemu-system-x86 e2fsprogs" ;;
esac
packages_test="libcmocka-dev clang libclang-rt-dev fio util-linux git man-db tmux libseccomp2 mmdebstrap nbdkit tgt librbd-dev librados-dev gdisk qemu-utils qemu-system-common libnbd-bin python3-libnbd nbdfuse gnutls-bin openssl"

packages_long="ceph-mon ceph-osd ceph-common" # of ./check --all: a cluster

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "not root, and sudo is not there: as root run '$*', then start again"
	fi
}

# apt says much; it is shown when it fails.
quiet() {
	local log
	log=$(mktemp)
	if ! "$@" >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

packages_missing() {
	local package
	for package in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
	done
}

# Lists of what apt can get, which a fresh machine has not.
packages_lists() {
	quiet as_root apt-get update || die "apt-get update failed"
}

packages_install() {
	local missing
	command -v apt-get >/dev/null || die "apt-get is not there: this works on Debian 12; on another system install by hand: $*"
	missing=$(packages_missing "$@")
	if [ -n "$missing" ]; then
		echo "==> installing with apt:" $missing
		packages_lists
		# shellcheck disable=SC2086 # one word a package
		quiet as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing ||
			die "apt could not install: $missing"
	fi
}

# The kernel of the test guest is downloaded, not installed: apt must know where from. Only before a guest image is made.
packages_kernel() {
	if ! apt-cache show "linux-image-cloud-$(dpkg --print-architecture)" >/dev/null 2>&1; then
		packages_lists
	fi
}
