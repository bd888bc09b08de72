# shellcheck shell=bash
# What every script needs. To be sourced, under `set -euo pipefail`.

# The root of the repository, wherever the script was called from.
# shellcheck disable=SC2034  # used by the scripts
FEDMOE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# fail MESSAGE [CODE]: says who failed and ends the script; 1 unless another code is given, 2 for wrong usage.
fail() {
  echo "$(basename "$0"): $1" >&2
  exit "${2:-1}"
}

# require_value OPTION COUNT VALUE: ends the script unless the option is followed by a value (COUNT arguments are left).
require_value() {
  [[ $2 -ge 2 && -n $3 ]] || fail "$1 needs a value; see --help" 2
}

# memory_kib: the memory of this machine in KiB, or of this container where that is less.
memory_kib() {
  local kib limit=max
  kib=$(awk '/^MemTotal:/ {print $2}' /proc/meminfo)
  if [[ -r /sys/fs/cgroup/memory.max ]]; then
    limit=$(</sys/fs/cgroup/memory.max)
  fi
  if [[ $limit != max ]] && ((limit / 1024 < kib)); then
    kib=$((limit / 1024))
  fi
  echo "$kib"
}

# build_jobs: how many compilers to run at once: one a core, and 1.5 GiB for each (libtorch's headers need 1 GB).
build_jobs() {
  local by_memory cores
  by_memory=$(($(memory_kib) / (1536 * 1024)))
  cores=$(nproc)
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# require_preset NAME: ends the script unless CMakePresets.json has it.
require_preset() {
  case "$1" in
    release | dev | asan | tsan | fuzz) ;;
    *) fail "unknown preset $1; known: release, dev, asan, tsan, fuzz" 2 ;;
  esac
}

# prefer_openmp_blas: makes this script's programs load the OpenBLAS that obeys a thread limit. Debian's alternatives
# prefer the pthread flavour, which does not, where both are installed; this changes nothing machine-wide.
prefer_openmp_blas() {
  local folder
  for folder in /usr/lib/*/openblas-openmp; do
    if [[ -e $folder/libblas.so.3 ]]; then
      export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
      return 0
    fi
  done
}
