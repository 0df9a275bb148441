"""Every recipe that is shipped: it loads, its dry run names every stage, it keeps to the paper where it says so, and its header is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.tiny_stage import untrained
from zero2r1.config import load_settings
from zero2r1.models.tokenizer import TextEncoder, load_tokenizer
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.dry_run import dry_run
from zero2r1.pipeline.dry_run_page import page
from zero2r1.pipeline.estimates import GIB
from zero2r1.pipeline.model_shapes import shape_of
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage_counts import Rows
from zero2r1.pipeline.stage_plans import Planner, kept_by_rejection
from zero2r1.pipeline.stages import STAGES

RECIPES = Path(__file__).parents[1] / "recipes"
MACHINES = {
    "smollm2-135m.yaml": 16.0,
    "smollm2-135m_long.yaml": 23.6,
    "qwen2.5-0.5b.yaml": 23.6,
    "qwen2.5-1.5b.yaml": 79.1,
    "qwen2.5-7b.yaml": 139.7,
    "llama-3.1-8b.yaml": 139.7,
}
"""Recipes of real models -> GiB of the machine that their headers name."""
LAPTOP = ("laptop/r1.yaml", "laptop/r1_short.yaml", "laptop/r1_long.yaml")
SINGLE = ("laptop/zero.yaml", "laptop/gsm8k.yaml", "laptop/small.yaml", "smollm2/arithmetic.yaml")
"""For `train zero`."""
PIPELINES = (*MACHINES, *LAPTOP)


def settings_of(name: str) -> PipelineSettings:
    """A recipe, or a size of one on top of it."""
    file = RECIPES / name
    under = file.with_name(re.sub(r"_(short|long)$", "", file.stem) + ".yaml")
    return load_settings(PipelineSettings, files=[file] if under == file else [under, file]).settings


def peaks_of(name: str) -> dict[str, float]:
    """GiB of every stage that a recipe runs, by the numbers of the recipe alone, whatever files are here."""
    settings = settings_of(name)
    student = settings.distillation.model
    shapes = {"shape": shape_of(settings.model), "student": None if student is None else shape_of(student)}
    planner = Planner(settings=settings, rows=Rows(), **shapes)
    plans = {spec.name: planner.plan(spec.name) for spec in STAGES if spec.left_out(settings) is None}
    return {stage: plan.peak.total / GIB for stage, plan in plans.items() if plan.peak is not None}


def test_every_file_is_known_here() -> None:
    found = {str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.yaml")}
    assert found == {*PIPELINES, *SINGLE, "laptop/claims.yaml", "smollm2/claims.yaml"}


@pytest.mark.parametrize("name", SINGLE)
def test_recipes_of_one_stage_load(name: str) -> None:
    assert load_settings(ZeroSettings, files=[RECIPES / name]).settings.steps > 0


@pytest.mark.parametrize("name", PIPELINES)
def test_the_dry_run_names_every_stage_and_only_files_are_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZERO2R1_CACHE", str(tmp_path))  # models that somebody converted are not here
    settings = settings_of(name)
    looked = dry_run(settings)
    shown = page(looked, recipe=name, speed=None)
    assert [spec.title for spec in STAGES if spec.title not in shown] == []
    assert looked.faults == ()
    missing = {option: path for option, path in looked.missing.items() if option != "model"}
    if name in LAPTOP:
        assert looked.can_run and missing == {}
    else:
        assert {"data.train", "data.held_out", "rejection_sft.general.source"} <= set(missing)
        assert all(re.fullmatch(r"data/\w+\.jsonl", path) for path in missing.values())
        header = (RECIPES / name.replace("_long", "")).read_text()
        assert [path for path in missing.values() if path not in header.split("\nmodel:")[0]] == []


@pytest.mark.parametrize("name", MACHINES)
def test_every_stage_fits_into_the_machine_that_is_named(name: str) -> None:
    peaks = peaks_of(name)
    assert {"zero", "cold_start", "reasoning_rl", "rejection_sft"} <= set(peaks)
    assert max(peaks.values()) < MACHINES[name], peaks


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_the_papers_stays_the_papers(name: str) -> None:
    settings, paper = settings_of(name), PipelineSettings()
    large = name in ("qwen2.5-7b.yaml", "llama-3.1-8b.yaml")  # no room for a reference
    scaled = {"mini_batches", *(("beta", "reference_reset_steps") if large else ())}
    for section in ("zero", "reasoning_rl", "all_scenarios"):
        own, stated = getattr(settings, section), getattr(paper, section)
        assert own.grpo.model_dump(exclude=scaled) == stated.grpo.model_dump(exclude=scaled), section
        assert own.reward == stated.reward, section
        assert "smollm2" in name or (own.rollout.group_size, own.rollout.temperature) == (16, stated.rollout.temperature), section
        assert own.optimizer.schedule == "constant"
    for sft in (settings.cold_start.sft, settings.rejection_sft.sft, settings.distillation.sft):
        assert (sft.epochs, sft.optimizer.schedule, sft.optimizer.final_factor) == (2, "cosine", 0.1)
    assert settings.rejection_sft.selection.mix == (600, 200)
    assert settings.reward_models.helpful.epochs == settings.reward_models.safety.epochs == 1
    assert settings.all_scenarios.rollout.temperature == 0.7
    general = settings.all_scenarios
    assert general.general.from_step / general.steps == pytest.approx(1_300 / 1_700, abs=0.02)


@pytest.mark.parametrize("name", [name for name in MACHINES if "_long" not in name])
def test_the_header_says_how_much_general_data_is_needed(name: str) -> None:
    wanted = kept_by_rejection(Planner(settings=settings_of(name), rows=Rows(), shape=None, student=None)).general_wanted
    said = re.search(r"dialogues, at least ([\d,]+)", (RECIPES / name).read_text())
    assert said is not None and int(said[1].replace(",", "")) == wanted


def test_peaks_in_the_table_of_recipes_are_those_of_the_dry_run() -> None:
    rows = re.findall(r"\| `([\w.-]+?)(?:\.yaml)?( --size long)?` \| [^|]+ \| (\d+) GiB", (RECIPES / "README.md").read_text())
    said = {f"{name.removesuffix('.yaml')}{'_long' if long else ''}.yaml": int(size) for name, long, size in rows}
    assert said == {name: round(max(peaks_of(name).values())) for name in MACHINES}


def test_the_chat_template_for_llama_can_be_learnt_and_asked_with(tmp_path: Path) -> None:
    """Its tokens as special tokens of a small tokenizer: what is asked ends where the answer begins, and the turn's end is learnt."""
    folder = untrained(tmp_path / "base")
    tokenizer = load_tokenizer(folder)
    tokens = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens, "bos_token": "<|begin_of_text|>"})
    written: Any = re.search(r"```jinja\n(.*?)```", (RECIPES / "README.md").read_text(), re.DOTALL)
    tokenizer.chat_template = written[1].strip()
    encoder = TextEncoder(tokenizer)
    asked = [{"role": "user", "content": "what is 3 plus 4"}]
    dialogue = encoder.encode_dialogue([*asked, {"role": "assistant", "content": "7", "reasoning_content": "3 plus 4"}])
    ids = dict(zip(tokens, tokenizer.convert_tokens_to_ids(tokens), strict=True))
    assert dialogue.prompt_ids == encoder.encode_chat(asked)
    assert dialogue.prompt_ids[0] == tokenizer.bos_token_id and dialogue.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert dialogue.prompt_ids[-1] == ids["<|end_header_id|>"]
    assert dialogue.response_ids[-1] == ids["<|eot_id|>"] and ids["<|eot_id|>"] not in dialogue.response_ids[:-1]
