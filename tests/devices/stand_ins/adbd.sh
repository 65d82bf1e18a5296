#!/bin/bash
# A phone's stand-in: the real adbd (Debian 13) with mksh and toybox, which are Android's own shell and tools.
#   adbd.sh setup ROOT          fetches and arranges the packages in a folder (root; needs mmdebstrap)
#   adbd.sh inside ROOT RUN     the device; to be run by namespaces.py. Its adb server listens on RUN/adb.sock,
#                               RUN/ready appears when it answers.
set -eu
ROOT=$2
PORT=6555 # 5555 to 5585 would be taken for emulators and listed twice
TOOLS='[ basename cat chmod cmp cp cut date dd df dirname du echo env expr false find free grep head id kill ln ls
  md5sum mkdir mktemp mv nice nproc od pgrep pidof printf ps pwd readlink realpath rm rmdir sed sha256sum sleep sort stat
  sync tail tar taskset tee test time timeout touch tr true uname uniq uptime wc which xargs'

case $1 in
setup)
  mmdebstrap --quiet --mode=root --variant=extract --include=adbd,mksh,toybox \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' trixie "$ROOT"
  for folder in bin sbin lib; do [ -e "$ROOT/$folder" ] || ln -s usr/$folder "$ROOT/$folder"; done
  [ ! -d "$ROOT/usr/lib64" ] || [ -e "$ROOT/lib64" ] || ln -s usr/lib64 "$ROOT/lib64"
  mkdir -p "$ROOT"/{proc,sys,dev,tmp,system/bin,data/local/tmp,etc}
  chmod 1777 "$ROOT/tmp"
  ln -sf mksh "$ROOT/usr/bin/sh"
  ln -sf /usr/bin/mksh "$ROOT/system/bin/sh"
  for tool in $TOOLS; do ln -sf /usr/bin/toybox "$ROOT/system/bin/$tool"; done
  printf '[%s]: [%s]\n' ro.product.manufacturer tfmpq ro.product.model 'adbd stand-in' ro.product.cpu.abi x86_64 \
    ro.build.version.sdk 34 ro.build.version.release 14 ro.hardware standin > "$ROOT/system/build.prop"
  printf '#!/system/bin/sh\ncat /system/build.prop\n' > "$ROOT/system/bin/getprop"
  chmod 755 "$ROOT/system/bin/getprop"
  echo 'root:x:0:0:root:/:/system/bin/sh' > "$ROOT/etc/passwd"
  echo 'root:x:0:' > "$ROOT/etc/group"
  ;;
inside)
  RUN=$3
  ip link set lo up
  mount -t proc proc "$ROOT/proc"
  mount -t tmpfs -o size=1m tmpfs "$ROOT/dev"
  mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$ROOT/dev/pts"
  ln -s pts/ptmx "$ROOT/dev/ptmx"
  for name in null zero urandom random tty; do
    touch "$ROOT/dev/$name"
    mount --bind /dev/$name "$ROOT/dev/$name"
  done
  mount -t tmpfs -o size=200m,mode=771 tmpfs "$ROOT/data/local/tmp"
  env -i PATH=/system/bin ADBD_PORT=$PORT HOME=/ TMPDIR=/data/local/tmp "$(command -v chroot)" "$ROOT" /usr/sbin/adbd &
  until ss -ltn | grep -q ":$PORT "; do sleep 0.05; done
  socket=localfilesystem:$RUN/adb.sock
  HOME=$RUN adb -L "$socket" server nodaemon &
  until [ -S "$RUN/adb.sock" ]; do sleep 0.05; done
  adb -L "$socket" connect 127.0.0.1:$PORT
  adb -L "$socket" -s 127.0.0.1:$PORT wait-for-device
  touch "$RUN/ready"
  wait
  ;;
esac
