#!/bin/bash
# Python with LiteRT for phones: glibc, Python, NumPy and ai-edge-litert for arm64, started through their own loader,
# so that they run where there is no glibc. Experimental: no phone has run it yet.
#   bundle.sh setup FOLDER    makes FOLDER/bundle.tar (root; needs mmdebstrap and pip)
set -eu
source "$(dirname "$0")/common.sh"
ROOT=$2/root
BUNDLE=$2/bundle
LIBRARIES='libc.so* libm.so* libdl.so* libpthread.so* librt.so* libutil.so* libz.so* libexpat.so* libstdc++.so*
  libgcc_s.so* libffi.so* libbz2.so* liblzma.so* libcrypto.so* libuuid.so*'
UNUSED='idlelib lib2to3 ensurepip distutils test pydoc_data unittest asyncio multiprocessing xmlrpc wsgiref turtledemo
  tkinter dbm sqlite3 curses __phello__'

unpack "$ROOT" bookworm arm64 python3.11-minimal,libpython3.11-stdlib,libstdc++6
mkdir -p "$BUNDLE"/{bin,lib,usr/lib,site}
cp -L "$ROOT/usr/bin/python3.11" "$BUNDLE/bin/"
cp -aL "$ROOT/usr/lib/python3.11" "$BUNDLE/usr/lib/"
cp -L "$ROOT/lib/ld-linux-aarch64.so.1" "$BUNDLE/lib/"
for library in $LIBRARIES; do
  find "$ROOT"/{lib,usr/lib}/aarch64-linux-gnu -maxdepth 1 -name "$library" -exec cp -L {} "$BUNDLE/lib/" \;
done
wheels "$2/wheels" aarch64 numpy==1.26.4 ai-edge-litert==2.3.0
for wheel in "$2"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$BUNDLE/site"; done

# What inference does not need is half of it.
(cd "$BUNDLE/site/ai_edge_litert" && rm -rf libLiteRtWebGpuAccelerator.so vendors ./*converter* aot tools)
(cd "$BUNDLE/site/numpy" && rm -rf tests ./*/tests f2py distutils core/lib core/include random/lib random/_examples)
(cd "$BUNDLE/usr/lib/python3.11" && rm -rf $UNUSED)
find "$BUNDLE" -name __pycache__ -prune -exec rm -rf {} +
cat > "$BUNDLE/python" <<'END'
#!/system/bin/sh
H=${0%/*}
case $H in /*) ;; *) H=$PWD/$H ;; esac
export PYTHONHOME=$H/usr PYTHONPATH=$H/site PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
exec "$H/lib/ld-linux-aarch64.so.1" --library-path "$H/lib:$H/site/numpy.libs" "$H/bin/python3.11" "$@"
END
chmod 755 "$BUNDLE/python" "$BUNDLE/bin/python3.11" "$BUNDLE/lib/ld-linux-aarch64.so.1"
# Not compressed: not every phone's tar can, and those that can take minutes.
tar -C "$2" -cf "$2/bundle.tar" bundle
rm -rf "$ROOT" "$BUNDLE" "$2/wheels"
