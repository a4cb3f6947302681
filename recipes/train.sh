#!/usr/bin/env bash
# Train the segmentation on synthetic CTs and pseudo-labelled real ones, for hours, beside other work. Given again, it
# goes on exactly where it stopped. The code it runs is a copy installed in its own environment, made at the first call,
# so that the checkout can be worked on meanwhile; delete OUT/code to train with newer code.
#
# usage: recipes/train.sh OUT HOSTS NAMES.json DONORS REAL VALIDATION.csv CONFIG.toml [NAME=VALUE]...
#   OUT             folder for everything that is made
#   HOSTS, DONORS  folders of label maps, NAMES.json what the ids in HOSTS mean (docs/how-to/train-on-synthetic.md)
#   REAL            folder of CTs without labels
#   VALIDATION.csv  labelled CTs that are never trained on, with the columns name, image and labels
#   CONFIG.toml     settings, e.g. recipes/fast/segment-3mm.toml; NAME=VALUE changes single ones
set -euo pipefail
if [[ $# -lt 7 ]]; then
  sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
  exit 2
fi
out=$1 hosts=$2 names=$3 donors=$4 real=$5 validation=$6 config=$7
shift 7
recipe="$(cd "$(dirname "$0")" && pwd)"
settings=()
for setting in "$@"; do settings+=(--set "$setting"); done
mkdir -p "$out"

if [[ ! -x "$out/code/bin/viscera" ]]; then
  rm -rf "$out/code" "$out/source"
  mkdir "$out/source"
  git -C "$recipe/.." archive HEAD | tar --extract --directory "$out/source"
  python3 -m venv "$out/code"
  "$out/code/bin/pip" install --quiet "$out/source[train]"
  cp "$config" "$out/config.toml"
fi
viscera="$out/code/bin/viscera"
[[ -f "$out/anatomies/anatomies.json" ]] ||
  "$viscera" anatomies --hosts "$hosts"/*.nii.gz --structures "$names" --donors "$donors"/*.nii.gz -o "$out/anatomies"
if [[ ! -f "$out/real/manifest.json" ]]; then
  [[ -f "$out/pseudo/cases.csv" ]] || "$viscera" pseudolabel "$real" -o "$out/pseudo"
  "$viscera" prepare "$out/pseudo/cases.csv" --labels "$out/pseudo/mapping.toml" -o "$out/real" --config "$out/config.toml"
fi
[[ -f "$out/validation/manifest.json" ]] ||
  "$viscera" prepare "$validation" -o "$out/validation" --config "$out/config.toml"

# Freed memory is kept for the next step: asking the system for it again is a sixth of a step.
export MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_MMAP_THRESHOLD_=17179869184
exec "$viscera" train segment "$out/anatomies" -o "$out/run" --config "$out/config.toml" \
  --initial "$recipe/../src/viscera/model/bundles/fast/segment.safetensors" \
  --real "$out/real" --validation-cache "$out/validation" "${settings[@]}"
