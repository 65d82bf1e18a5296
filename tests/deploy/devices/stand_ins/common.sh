# What the stand-ins share; to be sourced.

# unpack FOLDER SUITE ARCHITECTURE PACKAGE,...: packages of Debian, without running their scripts (root). Of its
# archives one is enough, and one can be out of order.
unpack() {
  mmdebstrap --quiet --mode=root --variant=extract --arch="$3" --include="$4" --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' "$2" "$1" http://deb.debian.org/debian
}

# wheels FOLDER ARCHITECTURE REQUIREMENT...: packages of PyPI for Python 3.11.
wheels() {
  local folder=$1 machine=$2
  shift 2
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 311 -d "$folder" \
    --platform "manylinux_2_34_$machine" --platform "manylinux_2_27_$machine" --platform "manylinux_2_17_$machine" \
    --platform "manylinux2014_$machine" "$@"
}

# qemu before 8.2 shows the cpuinfo of this machine, on which LiteRT's own reader crashes. This is what the named
# processor's looks like; what is shown and what qemu does have to agree. It also tells that it is an emulation.
cpuinfo() {
  local features part
  features='half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm'
  case $1 in
  cortex-a15) part=0xc0f ;;
  cortex-a72) part=0xd08 features="$features fp asimd crc32 cpuid" ;;
  cortex-a76) part=0xd0b features="$features fp asimd crc32 cpuid asimdrdm atomics fphp asimdhp asimddp" ;;
  esac
  for core in 0 1; do
    printf '%s\n' "processor	: $core" 'BogoMIPS	: 108.00' "Features	: $features" 'CPU implementer	: 0x41' \
      "CPU architecture: $([ "$1" = cortex-a15 ] && echo 7 || echo 8)" 'CPU variant	: 0x0' "CPU part	: $part" \
      'CPU revision	: 3' ''
  done
  printf 'Model\t\t: Emulated by qemu-user (timings mean nothing)\n'
}

# populate ROOT: what a system finds below /proc, /sys (without which XNNPACK does not start) and /dev.
populate() {
  mount -t proc proc "$1/proc"
  mount --rbind /sys "$1/sys"
  mount -t tmpfs -o size=1m tmpfs "$1/dev"
  mkdir "$1/dev/pts" "$1/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$1/dev/pts"
  ln -s pts/ptmx "$1/dev/ptmx"
  for name in null zero urandom random tty; do
    touch "$1/dev/$name"
    mount --bind "/dev/$name" "$1/dev/$name"
  done
}
