#!/bin/bash
# A Raspberry Pi's stand-in: Debian 12 for arm64 or armhf with sshd, Python and LiteRT, run by qemu-user.
#   raspberry.sh setup FOLDER ARCH            fetches and arranges packages (root; needs mmdebstrap and pip)
#   raspberry.sh inside FOLDER RUN PORT CPU   the machine; to be run by namespaces.py with NET=host. sshd listens
#                                             on 127.0.0.1:PORT, with the keys in RUN; CPU as qemu names it.
# Its timings mean nothing, and it says so in /proc/cpuinfo.
set -eu
source "$(dirname "$0")/common.sh"
ROOT=$2/root
PACKAGES=base-files,base-passwd,bash,dash,coreutils,grep,sed,findutils,openssh-server,openssh-sftp-server,\
python3,python3.11-minimal,libpython3.11-stdlib,libstdc++6

case $1 in
setup)
  case $3 in
  arm64) machine=aarch64 runtimes='ai-edge-litert==2.3.0 tflite-runtime==2.14.0 numpy==1.26.4' ;;
  armhf) machine=armv7l runtimes='tflite-runtime==2.14.0' ;; # PyPI has no NumPy for it
  esac
  unpack "$ROOT" bookworm "$3" "$PACKAGES$([ "$3" = arm64 ] || echo ,python3-numpy)"
  # What update-alternatives would do.
  for library in blas lapack; do
    file=$(cd "$ROOT" && find usr/lib -path "*/$library/lib$library.so.3")
    [ -z "$file" ] || ln -sf "/$file" "$ROOT/$(dirname "$(dirname "$file")")/lib$library.so.3"
  done
  cp "$ROOT/usr/share/base-passwd/passwd.master" "$ROOT/etc/passwd"
  cp "$ROOT/usr/share/base-passwd/group.master" "$ROOT/etc/group"
  sed -i 's/^root:[^:]*:/root:x:/' "$ROOT/etc/passwd"
  printf '%s\n' 'pi:x:1000:1000::/home/pi:/bin/bash' 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >> "$ROOT/etc/passwd"
  echo 'pi:x:1000:' >> "$ROOT/etc/group"
  echo 'pi:*:19000:0:99999:7:::' > "$ROOT/etc/shadow"
  mkdir -p "$ROOT"/home/pi "$ROOT"/run/sshd "$ROOT"/proc "$ROOT"/sys "$ROOT"/dev "$ROOT"/tmp "$ROOT"/keys \
    "$ROOT/usr/local/bin"
  chown 1000:1000 "$ROOT/home/pi"
  chmod 1777 "$ROOT/tmp"
  wheels "$2/wheels" $machine $runtimes
  # Each runtime has a folder of its own, so that either can be the only one.
  for wheel in "$2"/wheels/*.whl; do
    name=$(basename "$wheel" | cut -d- -f1)
    python3 -m zipfile -e "$wheel" "$ROOT/opt/$name"
  done
  for name in ai_edge_litert tflite_runtime; do
    printf '#!/bin/sh\nPYTHONPATH=/opt/numpy:/opt/%s exec python3 "$@"\n' $name > "$ROOT/usr/local/bin/python-$name"
    chmod 755 "$ROOT/usr/local/bin/python-$name"
  done
  ;;
inside)
  RUN=$3 PORT=$4 CPU=$5
  populate "$ROOT"
  cpuinfo "$CPU" > "$RUN/cpuinfo"
  mount --bind "$RUN/cpuinfo" "$ROOT/proc/cpuinfo"
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
