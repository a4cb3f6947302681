#!/usr/bin/env bash
# Train both networks on a machine with a GPU that is there for minutes and reaches no network.
#
#   recipes/gpu.sh pack PACK --anatomies DIR [--real CACHE] [--validation CACHE]   here: all it needs in one small folder
#   recipes/gpu.sh run PACK OUT --seconds N [--from OUT_BEFORE]                    there: check the GPU, train, write OUT
#   recipes/gpu.sh unpack OUT RUNS                                                 here: what came back, as runs
#
# `run` uses the source in PACK, not that of the checkout. It needs Python 3.11 or later with numpy, torch, safetensors
# and scipy; PYTHON names another interpreter. docs/how-to/gpu-training.md says more.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
if [[ "${1:-}" == run && -d "${2:-}/src/viscera" ]]; then
  root="$(cd "$2" && pwd)"
fi
export PYTHONPATH="$root/src:$root/recipes${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m gpu "$@"
