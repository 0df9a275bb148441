"""The runner: what runs, what is left as it is, what is moved aside. The stages here write a file each and count their runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from zero2r1.config import dump, load_settings
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.ledger import digest_of, read_ledger
from zero2r1.pipeline.materials import load_materials
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.run import run_pipeline
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.pipeline.stages import NAMES, STAGES, StageSpec
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome

SECTION = {name: name for name in ("zero", "cold_start", "reasoning_rl", "rejection_sft", "reward_models", "all_scenarios", "distillation")}
SECTION["student_base"] = "distillation"


class Counted:
    """Stages that write the steps of their section and the digests of their inputs, and remember that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails_in: str | None = None
        self.stops_in: str | None = None

    def stages(self) -> list[StageSpec]:
        return [
            StageSpec(
                name=spec.name, title="", says="", needs=spec.needs, makes=spec.makes, run=self._runner(spec), sections=spec.sections,
                left_out=spec.left_out,
            )
            for spec in STAGES
        ]  # fmt: skip

    def _runner(self, spec: StageSpec) -> Any:
        def run(given: StageRun) -> Mapping[str, Path]:
            self.ran.append(spec.name)
            if self.stops_in == spec.name:
                raise StageStopped
            if self.fails_in == spec.name:
                raise RuntimeError("out of memory")
            section = SECTION.get(spec.name)
            # What a stage makes depends on its own settings and its inputs, as in earnest.
            content = [given.settings.model_dump(mode="json")[section] if section else given.settings.seed, dict(given.digests)]
            made = {name: given.run.path / f"{name}.json" for name in spec.makes}
            for path in made.values():
                path.write_text(json.dumps(content), encoding="utf-8")
            return made

        return run


@pytest.fixture
def counted() -> Counted:
    return Counted()


def settings(**changes: Any) -> PipelineSettings:
    return PipelineSettings.model_validate({"evaluation": {"problems": 2}, "data": {"count": 4}, **changes})


def go(folder: Path, counted: Counted, wanted: PipelineSettings | None = None, **options: Any) -> list[str]:
    """Run the pipeline in the folder; returns the stages that ran."""
    counted.ran.clear()
    run = RunDir.start(folder, command=[], config="", seed=0)
    run_pipeline(wanted or settings(), run, stages=counted.stages(), **options)
    return list(counted.ran)


ALL = [spec.name for spec in STAGES if spec.left_out(PipelineSettings()) is None]
REQUESTS = {"requests": {"train": "laptop"}}
STUDENT = {"distillation": {"model": "laptop"}}


def test_every_stage_runs_once_and_then_nothing_does(tmp_path, counted):
    assert go(tmp_path, counted) == ALL
    assert go(tmp_path, counted) == []
    stages = {stage["name"]: stage for stage in read_ledger(tmp_path)["stages"]}
    assert {name: stages[name]["why"] for name in NAMES if name not in ALL} == {
        "no_language": "no_language: true runs it",
        "reward_models": "the recipe names no general requests: requests.train",
        "all_scenarios": "the recipe names no general requests: requests.train",
        "student_base": "the recipe names no student: distillation.model",
        "distillation": "the recipe names no student: distillation.model",
        "student_rl": "the recipe names no student: distillation.model",
    }
    assert {stages[name]["status"] for name in ALL} == {"done"}


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"zero": {"steps": 3}}, ["zero", "cold_start", "reasoning_rl", "rejection_sft"]),
        ({"cold_start": {"problems": 7}}, ["cold_start", "reasoning_rl", "rejection_sft"]),
        ({"reasoning_rl": {"steps": 3}}, ["reasoning_rl", "rejection_sft"]),
        ({"rejection_sft": {"problems": 7}}, ["rejection_sft"]),
        ({"seed": 1}, ALL),
        ({"threads": 1}, []),
        ({"zero": {"checkpoint_every": 3, "evaluate_every": 7, "rollout": {"max_rows": 3}}}, []),
        ({"no_language": True}, ["no_language"]),
        (STUDENT, ["student_base", "distillation"]),
        ({**STUDENT, "student_rl": {"run": True}}, ["student_base", "distillation", "student_rl"]),
        (REQUESTS, ["rejection_sft", "reward_models", "all_scenarios"]),  # stage 3 is measured on the requests, too
    ],
)
def test_a_changed_setting_runs_its_stage_and_exactly_those_below(tmp_path, counted, changes, again):
    go(tmp_path, counted)
    assert go(tmp_path, counted, settings(**changes)) == again


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"reward_models": {"calls": 6}}, ["reward_models", "all_scenarios"]),
        ({"all_scenarios": {"steps": 3}}, ["all_scenarios"]),
        ({"distillation": {"model": "laptop", "sft": {"epochs": 1}}}, ["distillation"]),
        ({"distillation": {"model": "laptop", "base": {"steps": 3}}}, ["student_base", "distillation"]),
        ({"rejection_sft": {"problems": 7}}, ["rejection_sft", "reward_models", "all_scenarios", "distillation"]),
    ],
)
def test_in_a_whole_recipe_too(tmp_path, counted, changes, again):
    go(tmp_path, counted, settings(**REQUESTS, **STUDENT))
    assert go(tmp_path, counted, settings(**{**REQUESTS, **STUDENT, **changes})) == again


def test_what_had_changed_is_said_and_the_old_work_is_kept(tmp_path, counted):
    go(tmp_path, counted)
    before = (tmp_path / "stages/04-reasoning-rl/dev2.json").read_text(encoding="utf-8")
    go(tmp_path, counted, settings(reasoning_rl={"steps": 3}))
    entry = next(stage for stage in read_ledger(tmp_path)["stages"] if stage["name"] == "reasoning_rl")
    assert "reasoning_rl.steps: 10400 -> 3" in entry["why"]
    assert (tmp_path / "stages/04-reasoning-rl.old1/dev2.json").read_text(encoding="utf-8") == before
    below = next(stage for stage in read_ledger(tmp_path)["stages"] if stage["name"] == "rejection_sft")
    assert below["why"] == "changed: dev2 is another"


def test_a_stage_that_comes_to_the_same_result_makes_nothing_below_it_stale(tmp_path, counted):
    go(tmp_path, counted)
    (tmp_path / "stages/02-zero/zero.json").unlink()
    assert go(tmp_path, counted) == ["zero"]


def test_a_failed_stage_goes_on_in_its_own_folder(tmp_path, counted):
    counted.fails_in = "reasoning_rl"
    with pytest.raises(RuntimeError, match="out of memory"):
        go(tmp_path, counted)
    assert json.loads((tmp_path / "stages/04-reasoning-rl/run.json").read_text(encoding="utf-8"))["status"] == "failed"
    (tmp_path / "stages/04-reasoning-rl/half_done").write_text("kept", encoding="utf-8")
    counted.fails_in = None
    assert go(tmp_path, counted) == ["reasoning_rl", "rejection_sft"]
    assert (tmp_path / "stages/04-reasoning-rl/half_done").exists()


def test_a_stage_under_way_with_other_settings_starts_anew(tmp_path, counted):
    counted.stops_in = "cold_start"
    go(tmp_path, counted)
    (tmp_path / "stages/03-cold-start/half_done").write_text("old", encoding="utf-8")
    counted.stops_in = None
    assert go(tmp_path, counted, settings(cold_start={"problems": 7})) == ["cold_start", "reasoning_rl", "rejection_sft"]
    assert not (tmp_path / "stages/03-cold-start/half_done").exists()
    assert (tmp_path / "stages/03-cold-start.old1/half_done").exists()


def test_a_run_that_is_asked_to_stop_says_so(tmp_path, counted):
    counted.stops_in = "zero"
    run = RunDir.start(tmp_path, command=[], config="", seed=0)
    assert run_pipeline(settings(), run, stages=counted.stages()) is Outcome.STOPPED
    counted.stops_in = None
    assert run_pipeline(settings(), run, stages=counted.stages()) is Outcome.DONE


def test_from_runs_a_stage_and_all_below_again(tmp_path, counted):
    go(tmp_path, counted)
    assert go(tmp_path, counted, start_from="reasoning_rl") == ["reasoning_rl", "rejection_sft"]


def test_only_runs_one_stage(tmp_path, counted):
    go(tmp_path, counted)
    assert go(tmp_path, counted, only="cold_start") == ["cold_start"]


@pytest.mark.parametrize("option", ["start_from", "only"])
def test_a_stage_without_what_it_needs_names_the_one_that_makes_it(tmp_path, counted, option):
    with pytest.raises(ValueError, match="dev1, which cold_start has not made yet"):
        go(tmp_path, counted, **{option: "reasoning_rl"})


def test_an_unknown_stage_is_refused_with_those_there_are(tmp_path, counted):
    with pytest.raises(ValueError, match="'stage2' is no stage; the stages are base, zero, cold_start"):
        go(tmp_path, counted, only="stage2")


def test_weights_that_were_changed_since_are_refused(tmp_path, counted):
    go(tmp_path, counted)
    (tmp_path / "stages/01-base/base.json").write_text("tampered", encoding="utf-8")
    with pytest.raises(ValueError, match=r"base\.json is not the base in the ledger"):
        go(tmp_path, counted, settings(zero={"steps": 3}))


def test_the_digest_of_a_folder_is_of_names_and_contents(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(text, encoding="utf-8")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").write_text("1", encoding="utf-8")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "c") != digest_of(tmp_path / "b")
    (tmp_path / "c" / "x").rename(tmp_path / "c" / "y")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no file"):
        digest_of(tmp_path / "empty")


def problems_file(path: Path, *questions: str) -> Path:
    path.write_text("".join(json.dumps({"question": q, "answer": "7"}) + "\n" for q in questions), encoding="utf-8")
    return path


APPLES = "How many apples has Mina if she picks three and then four more today?"


def of_files(tmp_path: Path, **changes: Any) -> PipelineSettings:
    train = problems_file(tmp_path / "train.jsonl", APPLES, "What is 3 + 4?")
    held_out = problems_file(tmp_path / "test.jsonl", "What is 4 + 3?")
    (tmp_path / "general.jsonl").write_text('{"prompt": "hello", "completion": "hi"}\n', encoding="utf-8")
    return settings(
        data={"train": str(train), "held_out": str(held_out)},
        rejection_sft={"general": {"source": str(tmp_path / "general.jsonl")}},
        **changes,
    )


def test_a_data_set_with_other_contents_is_another_input(tmp_path, counted):
    wanted = of_files(tmp_path)
    assert go(tmp_path / "run", counted, wanted) == ALL
    assert go(tmp_path / "run", counted, wanted) == []
    (tmp_path / "general.jsonl").write_text('{"prompt": "hello", "completion": "good day"}\n', encoding="utf-8")
    assert go(tmp_path / "run", counted, wanted) == ["rejection_sft"]
    problems_file(tmp_path / "train.jsonl", "What is 5 + 2?")
    assert go(tmp_path / "run", counted, wanted) == [name for name in ALL if name != "base"]
    entry = next(stage for stage in read_ledger(tmp_path / "run")["stages"] if stage["name"] == "zero")
    assert entry["why"] == f"changed: the file {tmp_path}/train.jsonl is another"


def test_no_training_problem_overlaps_with_an_evaluation_question(tmp_path, counted):
    wanted = of_files(tmp_path)
    problems_file(tmp_path / "test.jsonl", "what is 4 + 3?", APPLES.upper())
    materials = load_materials(wanted)
    assert [problem.question for problem in materials.world.train] == ["What is 3 + 4?"]
    assert [problem.question for problem in materials.problems("reasoning_rl", 10)] == ["What is 3 + 4?"]
    assert len(materials.leaked) == 1 and "shares 14 words with test" in materials.leaked[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cold_start": {"solved": 5}}, "cold_start.solved: only the laptop world has that"),
        ({"claims": "nowhere.yaml"}, "claims names nowhere.yaml"),
        ({"decontaminate": ["gone.jsonl"]}, "decontaminate[0] names gone.jsonl"),
        ({"reasoning_rl": {"mixture": {"maths": 1}}}, "the mixture gives shares to ['maths']"),
    ],
)
def test_a_mistake_in_the_recipe_is_found_before_any_work_is_touched(tmp_path, counted, changes, message):
    go(tmp_path / "run", counted, of_files(tmp_path))
    with pytest.raises(ValueError) as refused:
        go(tmp_path / "run", counted, of_files(tmp_path, **changes))
    assert message in str(refused.value)
    assert go(tmp_path / "run", counted, of_files(tmp_path)) == []
    assert not list((tmp_path / "run" / "stages").glob("*.old*"))


def test_a_stopped_from_goes_on_without_being_told_again(tmp_path, counted):
    go(tmp_path, counted)
    counted.stops_in = "reasoning_rl"
    assert go(tmp_path, counted, start_from="cold_start") == ["cold_start", "reasoning_rl"]
    counted.stops_in = None
    assert go(tmp_path, counted) == ["reasoning_rl", "rejection_sft"]


def test_results_that_no_longer_fit_are_not_judged_with_the_others(tmp_path, counted):
    go(tmp_path, counted)
    assert go(tmp_path, counted, settings(zero={"steps": 3}), only="zero") == ["zero"]
    stages = {stage["name"]: stage["status"] for stage in read_ledger(tmp_path)["stages"]}
    # What stage 2 was made of is still there, so it fits; the cold start stands on another R1-Zero now.
    assert (stages["zero"], stages["cold_start"], stages["reasoning_rl"]) == ("done", "stale", "done")
    assert go(tmp_path, counted, settings(zero={"steps": 3})) == ["cold_start", "reasoning_rl", "rejection_sft"]


def test_an_ablation_that_the_recipe_leaves_out_is_not_judged(tmp_path, counted):
    go(tmp_path, counted, settings(no_language=True))
    go(tmp_path, counted)
    stages = {stage["name"]: stage["status"] for stage in read_ledger(tmp_path)["stages"]}
    assert stages["no_language"] == "not run"
    with pytest.raises(ValueError, match=r"leaves no_language out \(no_language: true runs it"):
        go(tmp_path, counted, only="no_language")


def test_an_old_folder_that_was_deleted_leaves_room(tmp_path, counted):
    for steps in (1, 2, 3):
        go(tmp_path, counted, settings(rejection_sft={"problems": steps}))
    assert sorted(path.name for path in (tmp_path / "stages").glob("*.old*")) == ["06-rejection-sft.old1", "06-rejection-sft.old2"]
    shutil.rmtree(tmp_path / "stages" / "06-rejection-sft.old1")
    go(tmp_path, counted, settings(rejection_sft={"problems": 4}))
    assert (tmp_path / "stages" / "06-rejection-sft.old3").is_dir()


def test_the_settings_a_run_wrote_down_are_a_recipe(tmp_path):
    resolved = load_settings(PipelineSettings, flags=["--seed=3", "--zero.steps=7"])
    (tmp_path / "config.yaml").write_text(dump(resolved), encoding="utf-8")
    assert load_settings(PipelineSettings, files=[tmp_path / "config.yaml"]).settings == resolved.settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero": {"seed": 5}}, "zero.seed is not used in a pipeline"),
        ({"no_language": True, "reasoning_rl": {"reward": {"weights": {"accuracy": 1.0}}}}, "no_language trains stage 2 without"),
        ({"cold_start": {"endpoint": {"url": "http://x/v1", "model": "m"}}}, "endpoint is set and nobody asks it"),
        ({"cold_start": {"direct": 5}}, "direct need a model to ask"),
        ({"rejection_sft": {"general": {"think_about": ["writing"]}}}, "think_about needs a model"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
