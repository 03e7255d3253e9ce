# Sourced by the scripts that a person types. Owns how this machine gets what Renderplane needs: packages of the system
# (apt, only as root or with sudo that asks no password) and the packages of the lock file. POSIX sh, no prompts.
# Sets $root (the checkout) and, after need_dependencies, $node (the Node 24 that npm brings). Never changes the folder
# of the caller, so relative paths on the command line keep their meaning.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
node=$root/node_modules/.bin/node
wanted_packages=

say() { printf '%s\n' "$*" >&2; }
give_up() {
  say "$1"
  exit 1
}

# need_program PROGRAM PACKAGE: remembers the package when the program is not there.
need_program() {
  command -v "$1" >/dev/null 2>&1 || wanted_packages="$wanted_packages $2"
}
# need_file FILE PACKAGE
need_file() {
  [ -e "$1" ] || wanted_packages="$wanted_packages $2"
}

# Prints the prefix that makes a command run as root; fails when there is none.
root_prefix() {
  if [ "$(id -u)" -eq 0 ]; then
    echo env
  elif command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; then
    echo "sudo -n env"
  else
    return 1
  fi
}

# Installs what need_* remembered. Otherwise says exactly what to type.
install_wanted() {
  [ -n "$wanted_packages" ] || return 0
  # Word splitting is wanted: the names are our own.
  # shellcheck disable=SC2086
  set -- $wanted_packages
  wanted_packages=
  if ! command -v apt-get >/dev/null 2>&1; then
    give_up "This machine has no apt-get. Install these with its own package tool, then run this again: $*"
  fi
  prefix=$(root_prefix) || give_up "These system packages are missing: $*. Run: sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
  say "Installing system packages: $*"
  # apt may wait for another apt (unattended upgrades on a fresh machine), five minutes at most.
  options="-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq"
  # shellcheck disable=SC2086
  $prefix DEBIAN_FRONTEND=noninteractive apt-get $options update >&2 </dev/null || say "apt-get update failed; trying with the lists that are here."
  # shellcheck disable=SC2086
  $prefix DEBIAN_FRONTEND=noninteractive apt-get $options install -y --no-install-recommends "$@" >&2 </dev/null ||
    give_up "apt-get could not install: $*. Run it by hand to see why: sudo apt-get install -y --no-install-recommends $*"
}

# What a render needs. A path that is set by hand wins over the package.
need_media_programs() {
  [ -n "${FFMPEG_PATH:-}" ] && [ -n "${FFPROBE_PATH:-}" ] || { need_program ffmpeg ffmpeg; }
  [ -n "${ESPEAK_PATH:-}" ] || need_program espeak-ng espeak-ng
  need_file /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf fonts-dejavu-core
}

# True when the Node on the PATH can run npm's own code (18 or newer) and npm is there.
can_bootstrap() {
  command -v npm >/dev/null 2>&1 && command -v node >/dev/null 2>&1 &&
    [ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 18' 2>/dev/null)" = true ]
}

# Runs npm ci only when node_modules is absent or differs from the lock file.
need_dependencies() {
  if [ -x "$node" ] && "$node" "$root/scripts/setup/installed.mjs" "$root"; then return 0; fi
  if ! can_bootstrap; then
    wanted_packages="$wanted_packages nodejs npm"
    install_wanted
    can_bootstrap || give_up "npm with Node 18 or newer is needed to install Renderplane's own packages; found Node $(node --version 2>/dev/null || echo none). Install a newer Node and run this again."
  fi
  say "Installing the packages of package-lock.json (npm ci)"
  (cd "$root" && npm ci --no-audit --no-fund --loglevel=error) >&2 </dev/null ||
    give_up "npm ci failed. It needs a way to the npm registry; the lines above say what went wrong. Then run this again."
  [ -x "$node" ] || give_up "npm ci brought no Node 24 for this machine ($(uname -m)). Renderplane runs on x86_64 and aarch64 Linux with glibc."
}
