#!/usr/bin/env bash
# Train the segmentation on synthetic CTs and pseudo-labelled real ones, for hours, at the same time as other work. After
# any interruption the same command resumes exactly where it stopped. The code it runs is a copy of the checkout's last
# commit, installed in an environment of its own at the first call together with CONFIG.toml, so that the checkout can be
# worked on meanwhile; delete OUT/code to train with newer code and settings.
#
# usage: recipes/train.sh OUT HOSTS NAMES.json DONORS REAL VALIDATION.csv CONFIG.toml [NAME=VALUE]...
#   OUT             folder for everything that is made
#   HOSTS, DONORS   folders of label maps, NAMES.json what the ids in HOSTS mean (docs/how-to/train-on-synthetic.md)
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
checkout="$(cd "$(dirname "$0")/.." && pwd)"
settings=()
for setting in "$@"; do settings+=(--set "$setting"); done
mkdir -p "$out"

viscera="$out/code/bin/viscera"
if [[ ! -x "$viscera" ]]; then
  rm -rf "$out/code" "$out/source"
  mkdir "$out/source"
  git -C "$checkout" archive HEAD | tar -x -C "$out/source"
  cp "$config" "$out/config.toml"
  python3 -m venv "$out/code"
  "$out/code/bin/pip" install --quiet "$out/source[train]"
elif ! cmp -s "$config" "$out/config.toml"; then
  echo "$0: using $out/config.toml, copied at the first call, which differs from $config" >&2
fi

# The commands that make data exit with 1 if single cases fail, which they name; the remaining ones are trained on.
[[ -f "$out/anatomies/anatomies.json" ]] ||
  "$viscera" anatomies --hosts "$hosts"/*.nii.gz --structures "$names" --donors "$donors"/*.nii.gz -o "$out/anatomies"
[[ -f "$out/pseudo/cases.csv" || -f "$out/real/manifest.json" ]] ||
  "$viscera" pseudolabel "$real" -o "$out/pseudo" || [[ -f "$out/pseudo/cases.csv" ]]
[[ -f "$out/real/manifest.json" ]] ||
  "$viscera" prepare "$out/pseudo/cases.csv" --labels "$out/pseudo/mapping.toml" -o "$out/real" \
    --config "$out/config.toml" || [[ -f "$out/real/manifest.json" ]]
[[ -f "$out/validation/manifest.json" ]] ||
  "$viscera" prepare "$validation" -o "$out/validation" --config "$out/config.toml" ||
  [[ -f "$out/validation/manifest.json" ]]

# Freed memory is kept for the next step: asking the system for it again is a sixth of a step.
export MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_MMAP_THRESHOLD_=17179869184
exec "$viscera" train segment "$out/anatomies" -o "$out/run" --config "$out/config.toml" \
  --initial "$out/source/src/viscera/model/bundles/fast/segment.safetensors" \
  --real "$out/real" --validation-cache "$out/validation" ${settings[@]+"${settings[@]}"}
