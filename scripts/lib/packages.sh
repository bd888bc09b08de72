# shellcheck shell=bash
# Installs the Debian packages of scripts/packages.txt that are missing. To be sourced after common.sh.

# listed_packages SECTION...: the packages of these sections, one a line.
listed_packages() {
  local section
  for section in "$@"; do
    awk -v want="$section" '
      /^# section: / { active = ($3 == want); found = found || active; next }
      /^[[:space:]]*(#|$)/ { next }
      active { print $1 }
      END { exit !found }' "$FEDMOE_ROOT/scripts/packages.txt" ||
      fail "scripts/packages.txt has no section $section"
  done
}

# missing_packages PACKAGE...: those that are not installed, one a line.
missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | awk '$1 == "installed" {print $2}') ||
    true
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || echo "$package"
  done
}

# apt_as_root ARGUMENT...: apt-get without questions; waits for another apt that holds the lock, as on a new machine.
apt_as_root() {
  local as_root=() options=(-q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
  [[ $(id -u) == 0 ]] || as_root=(sudo -n)
  # In a container or chroot, which is made anew rather than repaired after a power failure, dpkg need not wait for the
  # disk after each of the 400 packages; Debian's own container images have this setting too.
  [[ -d /run/systemd/system ]] || options+=(-o Dpkg::Options::=--force-unsafe-io)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@" </dev/null
}

# warn_if_memory_is_small: a build on too little memory ends in a killed compiler, which does not say why.
warn_if_memory_is_small() {
  local gib_tenths=$(($(memory_kib) * 10 / 1048576))
  if ((gib_tenths < 30)); then
    echo "warning: $((gib_tenths / 10)).$((gib_tenths % 10)) GiB of memory; a build needs 3 GiB, or swap" >&2
  fi
}

# ensure_packages SECTION...: all packages of these sections are installed when it returns; else the script ends with
# exit code 3, the names of the missing packages and the command that installs them.
ensure_packages() {
  local listed packages missing
  warn_if_memory_is_small
  listed=$(listed_packages "$@")
  mapfile -t packages <<<"$listed"
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    fail "this machine has no apt: install the counterparts of these Debian 12 packages, then use --no-install: ${packages[*]}" 3
  fi
  mapfile -t missing < <(missing_packages "${packages[@]}")
  if [[ ${#missing[@]} -eq 0 ]]; then
    echo "Packages: all ${#packages[@]} are installed."
    return 0
  fi

  local command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) != 0 ]] && ! sudo -n true 2>/dev/null; then
    fail "missing packages: ${missing[*]}
Neither root nor sudo without a password is at hand. As root, run:
  $command" 3
  fi
  echo "Packages: installing ${#missing[@]} of ${#packages[@]}: ${missing[*]}"
  apt_as_root update || echo "warning: apt-get update failed; trying with the lists that are there" >&2
  apt_as_root install -y --no-install-recommends "${missing[@]}" ||
    fail "missing packages: ${missing[*]}
apt-get could not install them (its error is above). To try by hand, as root:
  $command" 3
}
