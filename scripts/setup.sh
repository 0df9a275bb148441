#!/usr/bin/env bash
# Makes .venv with everything the project needs. Repeatable. Without an NVIDIA GPU it takes a CPU build of torch:
# the CUDA one is 20 times larger. TORCH_INDEX=URL chooses the index yourself.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CPU_INDEX=https://download.pytorch.org/whl/cpu
torch=$(grep -E '^torch==' constraints.txt)

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "zero2r1 needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv
fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }

plain_index_is_cpu() { # what the plain index would install pulls no CUDA packages
    .venv/bin/python -m pip install --dry-run --ignore-installed --quiet --report - "$torch" 2>/dev/null | grep -q '"nvidia-\|"cuda-' && return 1 || return 0
}

if .venv/bin/python -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '${torch#torch==}')" 2>/dev/null; then
    : # torch is there already
elif [ -n "${TORCH_INDEX:-}" ]; then
    pip install "$torch" --index-url "$TORCH_INDEX"
elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! plain_index_is_cpu \
    && .venv/bin/python -m pip --timeout 10 --retries 0 -q install "$torch" --index-url "$CPU_INDEX"; then
    :
else
    pip install "$torch"
fi
pip install -c constraints.txt -e ".[dev]"
