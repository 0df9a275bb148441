"""Settings of `train rm`."""

from __future__ import annotations

from pydantic import Field

from zero2r1.config import Settings
from zero2r1.pipeline.config import BaseSettings
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.tracking import Tracker


class RewardDataSettings(Settings):
    """Pairs or labels, as the kind says (see zero2r1.reward_models.data)."""

    train: str | None = None  # JSONL, JSON or Parquet, compressed with gzip or not
    held_out: str | None = None  # a file of the same kind; held_out_share of the training file if left out


class RewardModelRunSettings(RewardModelSettings):
    """Everything ``train rm`` knows."""

    model: str = "laptop"
    base: BaseSettings = BaseSettings()
    data: RewardDataSettings = RewardDataSettings()
    threads: int | None = Field(None, ge=1)
    track: Tracker = "none"
