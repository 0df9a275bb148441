"""Every example runs, and the two READMEs say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.pipeline.tiny_stage import untrained

ROOT = Path(__file__).parents[1]


def write_questions(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"question": f"compute {i} + 1", "answer": f"#### {i + 1}"}) + "\n" for i in range(count)))
    return path


def test_train_zero_in_ten_lines(tmp_path):
    files = [write_questions(tmp_path / f"{name}.jsonl", count) for name, count in (("train", 8), ("test", 3))]
    model = untrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_zero.py"), str(model), *map(str, files), "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'base'" in done.stdout and "'zero'" in done.stdout


def test_both_readmes_show_the_same_commands_output_and_files():
    english, korean = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
    assert re.findall(r"\]\(([^)]+)\)", english)[:-1] == re.findall(r"\]\(([^)]+)\)", korean)[:-1]
    blocks = [[re.sub(r"#.*", "", block) for block in re.findall(r"```.*?```", text, re.DOTALL)] for text in (english, korean)]
    assert blocks[0] == blocks[1]
