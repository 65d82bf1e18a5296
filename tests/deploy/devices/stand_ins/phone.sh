#!/bin/bash
# A phone's stand-in: the real adbd (Debian 13) with mksh and toybox, which are Android's own shell and tools.
#   phone.sh setup FOLDER ARCH       fetches and arranges the packages (root; needs mmdebstrap)
#   phone.sh inside FOLDER RUN [CPU] the device; to be run by namespaces.py. Its adb server listens on
#                                    RUN/adb.sock, RUN/ready appears when it answers. CPU: emulate this one.
set -eu
source "$(dirname "$0")/common.sh"
ROOT=$2/root
PORT=6555 # 5555 to 5585 would be taken for emulators and listed twice
TOOLS='[ basename cat chmod cmp cp cut date dd df dirname du echo env expr false find free grep head id kill ln ls
  md5sum mkdir mktemp mv nice nproc od pgrep pidof printf ps pwd readlink realpath rm rmdir sed sha256sum sleep sort stat
  sync tail tar taskset tee test time timeout touch tr true uname uniq uptime wc which xargs'

case $1 in
setup)
  unpack "$ROOT" trixie "$3" adbd,mksh,toybox
  for folder in bin sbin lib; do [ -e "$ROOT/$folder" ] || ln -s usr/$folder "$ROOT/$folder"; done
  [ ! -d "$ROOT/usr/lib64" ] || [ -e "$ROOT/lib64" ] || ln -s usr/lib64 "$ROOT/lib64"
  mkdir -p "$ROOT"/{proc,sys,dev,tmp,system/bin,data/local/tmp,etc}
  chmod 1777 "$ROOT/tmp"
  ln -sf mksh "$ROOT/usr/bin/sh"
  ln -sf /usr/bin/mksh "$ROOT/system/bin/sh"
  for tool in $TOOLS; do ln -sf /usr/bin/toybox "$ROOT/system/bin/$tool"; done
  case $3 in amd64) abi=x86_64 ;; arm64) abi=arm64-v8a ;; esac
  printf '[%s]: [%s]\n' ro.product.manufacturer tfmpq ro.product.model 'adbd stand-in' ro.product.cpu.abi $abi \
    ro.build.version.sdk 34 ro.build.version.release 14 ro.hardware standin > "$ROOT/system/build.prop"
  printf '#!/system/bin/sh\ncat /system/build.prop\n' > "$ROOT/system/bin/getprop"
  chmod 755 "$ROOT/system/bin/getprop"
  echo 'root:x:0:0:root:/:/system/bin/sh' > "$ROOT/etc/passwd"
  echo 'root:x:0:' > "$ROOT/etc/group"
  ;;
inside)
  RUN=$3 CPU=${4:-}
  ip link set lo up
  populate "$ROOT"
  room=200m
  if [ "$CPU" ]; then
    room=400m # for a bundle
    cpuinfo "$CPU" > "$RUN/cpuinfo"
    mount --bind "$RUN/cpuinfo" "$ROOT/proc/cpuinfo"
  fi
  mount -t tmpfs -o size=$room,mode=771 tmpfs "$ROOT/data/local/tmp"
  env -i PATH=/system/bin ADBD_PORT=$PORT HOME=/ TMPDIR=/data/local/tmp ${CPU:+QEMU_CPU=$CPU} \
    "$(command -v chroot)" "$ROOT" /usr/sbin/adbd &
  until ss -ltn | grep -q ":$PORT "; do sleep 0.05; done
  socket=localfilesystem:$RUN/adb.sock
  HOME=$RUN TMPDIR=$RUN adb -L "$socket" server nodaemon &
  until [ -S "$RUN/adb.sock" ]; do sleep 0.05; done
  adb -L "$socket" connect 127.0.0.1:$PORT
  adb -L "$socket" -s 127.0.0.1:$PORT wait-for-device
  touch "$RUN/ready"
  wait
  ;;
esac
