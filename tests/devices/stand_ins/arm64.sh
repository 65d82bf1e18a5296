#!/bin/bash
# A Raspberry Pi's stand-in: Debian 12 for arm64 with sshd, Python and LiteRT, run by qemu-user.
#   arm64.sh setup FOLDER              fetches and arranges packages (root; needs mmdebstrap and pip)
#   arm64.sh inside FOLDER RUN PORT CPU  the machine; to be run by namespaces.py with NET=host. sshd listens on
#                                      127.0.0.1:PORT, with the keys in RUN; CPU is a name that qemu knows.
# Its timings mean nothing, and it says so in /proc/cpuinfo.
set -eu
ROOT=$2/root
WHEELS='numpy==1.26.4 tflite-runtime==2.14.0 ai-edge-litert==2.3.0'
TAGS='manylinux_2_34_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64'

case $1 in
setup)
  mmdebstrap --quiet --mode=root --arch=arm64 --variant=extract \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
    --include=base-files,base-passwd,bash,dash,coreutils,grep,sed,findutils,openssh-server,openssh-sftp-server \
    --include=python3,python3.11-minimal,libpython3.11-stdlib,libstdc++6 bookworm "$ROOT"
  cp "$ROOT/usr/share/base-passwd/passwd.master" "$ROOT/etc/passwd"
  cp "$ROOT/usr/share/base-passwd/group.master" "$ROOT/etc/group"
  sed -i 's/^root:[^:]*:/root:x:/' "$ROOT/etc/passwd"
  printf '%s\n' 'pi:x:1000:1000::/home/pi:/bin/bash' 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >> "$ROOT/etc/passwd"
  echo 'pi:x:1000:' >> "$ROOT/etc/group"
  echo 'pi:*:19000:0:99999:7:::' > "$ROOT/etc/shadow"
  mkdir -p "$ROOT"/home/pi "$ROOT"/run/sshd "$ROOT"/proc "$ROOT"/sys "$ROOT"/dev "$ROOT"/tmp "$ROOT"/keys
  chown 1000:1000 "$ROOT/home/pi"
  chmod 1777 "$ROOT/tmp"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 311 -d "$2/wheels" \
    $(printf -- '--platform %s ' $TAGS) $WHEELS
  # Each runtime has a folder of its own, so that either can be the only one.
  for wheel in "$2"/wheels/*.whl; do
    name=$(basename "$wheel" | cut -d- -f1)
    python3 -m zipfile -e "$wheel" "$ROOT/opt/$name"
  done
  for name in ai_edge_litert tflite_runtime; do
    printf '#!/bin/sh\nPYTHONPATH=/opt/numpy:/opt/%s exec python3 "$@"\n' $name > "$ROOT/usr/local/bin/python-$name"
    chmod 755 "$ROOT/usr/local/bin/python-$name"
  done
  # qemu before 8.2 shows the host's cpuinfo, on which LiteRT's own reader crashes: this is a Raspberry Pi 4's.
  for core in 0 1; do
    printf '%s\n' "processor	: $core" 'BogoMIPS	: 108.00' \
      'Features	: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm fp asimd crc32 cpuid' \
      'CPU implementer	: 0x41' 'CPU architecture: 8' 'CPU variant	: 0x0' 'CPU part	: 0xd08' 'CPU revision	: 3' ''
  done > "$2/cpuinfo"
  echo 'Model		: Emulated by qemu-user (timings mean nothing)' >> "$2/cpuinfo"
  ;;
inside)
  RUN=$3 PORT=$4 CPU=$5
  mount -t proc proc "$ROOT/proc"
  # A newer core has the dot product; what is shown and what qemu does have to agree.
  sed "$([ "$CPU" = cortex-a72 ] || echo 's/cpuid$/cpuid asimdrdm atomics fphp asimdhp asimddp/; s/0xd08/0xd0b/')" \
    "$2/cpuinfo" > "$RUN/cpuinfo"
  mount --bind "$RUN/cpuinfo" "$ROOT/proc/cpuinfo"
  mount -t tmpfs -o size=1m tmpfs "$ROOT/dev"
  mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$ROOT/dev/pts"
  ln -s pts/ptmx "$ROOT/dev/ptmx"
  for name in null zero urandom random tty; do
    touch "$ROOT/dev/$name"
    mount --bind /dev/$name "$ROOT/dev/$name"
  done
  mount -t tmpfs -o size=1m tmpfs "$ROOT/keys"
  cp "$RUN/host" "$ROOT/keys/host"
  cp "$RUN/user.pub" "$ROOT/keys/authorized"
  chmod 600 "$ROOT/keys/host"
  mount -t tmpfs -o size=300m,mode=1777 tmpfs "$ROOT/tmp"
  printf '%s\n' 'ListenAddress 127.0.0.1' 'HostKey /keys/host' 'AuthorizedKeysFile /keys/authorized' \
    'PasswordAuthentication no' 'UsePAM no' 'PrintMotd no' 'PidFile none' 'StrictModes no' \
    "SetEnv QEMU_CPU=$CPU" 'Subsystem sftp /usr/lib/openssh/sftp-server' > "$ROOT/keys/sshd_config"
  exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin QEMU_CPU="$CPU" "$(command -v chroot)" "$ROOT" \
    /usr/sbin/sshd -D -e -f /keys/sshd_config -p "$PORT"
  ;;
esac
