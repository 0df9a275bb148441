"""Copies of the metrics: none unless asked for."""

from __future__ import annotations

import importlib.util

import pytest

from zero2r1.pipeline.config import ZeroSettings
from zero2r1.tracking import open_tracker


def test_nothing_is_tracked_by_default(tmp_path):
    assert ZeroSettings().track == "none"
    open_tracker("none", tmp_path)({"step": 1, "loss": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_library_is_named_with_its_command(tmp_path):
    with pytest.raises(ValueError, match=r'track is wandb, which is not installed:  pip install "zero2r1\[track\]"'):
        open_tracker("wandb", tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_files_lie_in_the_run(tmp_path):
    open_tracker("tensorboard", tmp_path)({"step": 1, "loss": 0.5, "note": "text is left out"})
    assert list((tmp_path / "tensorboard").iterdir())
