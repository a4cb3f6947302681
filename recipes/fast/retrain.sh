#!/usr/bin/env bash
# From label maps to the bundle `fast`: anatomies, three trainings, the bundle. Given again, it goes on where it stopped.
set -euo pipefail
if [[ $# -ne 4 ]]; then
  echo "usage: $0 HOSTS NAMES.json DONORS OUT   (folders of .nii.gz label maps; OUT is made)" >&2
  exit 2
fi
hosts=$1 names=$2 donors=$3 out=$4
recipe="$(cd "$(dirname "$0")" && pwd)"

viscera anatomies --hosts "$hosts"/*.nii.gz --structures "$names" --donors "$donors"/*.nii.gz -o "$out/anatomies" --workers 2
viscera train segment "$out/anatomies" -o "$out/coarse" --config "$recipe/segment-5mm.toml"
viscera train localise "$out/anatomies" -o "$out/localise" --config "$recipe/localise.toml" \
  --initial "$out/coarse/weights.safetensors"
viscera train segment "$out/anatomies" -o "$out/segment" --config "$recipe/segment-3mm.toml" \
  --initial "$out/coarse/weights.safetensors"
viscera bundle "$out/localise" "$out/segment" -o "$out/fast" --card "$recipe/card.json"
