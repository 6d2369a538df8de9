#!/usr/bin/env bash
# Run Python for 64-bit Arm in emulation: python.sh FOLDER [ARGUMENTS OF PYTHON...], with CPU=cortex-a72 or another core.
#
# The first call makes FOLDER (as root, from Debian's and Python's package indexes). Times mean nothing here. ONNX Runtime
# 1.30 to 1.32 crash at import under QEMU 7.2, so an older one is taken.
set -euo pipefail
folder=$(realpath -m "$1"); shift
if [ ! -f "$folder/ready" ]; then
  if ! command -v debootstrap >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq qemu-user-static debootstrap; } >&2
  fi
  rm -rf "$folder/root" "$folder/wheels" "$folder/site"
  mkdir -p "$folder/wheels" "$folder/site"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$')
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 bookworm "$folder/root" "$mirror" >&2
  for package in "$folder"/root/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
  platforms=()
  for glibc in 2_34 2_31 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_aarch64"); done
  ${PYTHON:-python3} -m pip download -q --no-deps -d "$folder/wheels" --only-binary=:all: --python-version 3.11 \
    --implementation cp "${platforms[@]}" --platform manylinux2014_aarch64 --platform any \
    numpy onnxruntime==1.27.0 tokenizers minijinja msgspec click flatbuffers protobuf packaging pillow >&2
  for wheel in "$folder"/wheels/*.whl; do ${PYTHON:-python3} -m zipfile -e "$wheel" "$folder/site"; done
  touch "$folder/ready"
fi
export PYTHONPATH="$folder/site${PYTHONPATH:+:$PYTHONPATH}"
exec qemu-aarch64-static -cpu "${CPU:-cortex-a72}" -L "$folder/root" "$folder/root/usr/bin/python3.11" "$@"
