"""`train rm`: a reward model from a causal language model and a file of pairs or labels, measured before and after (section 2.3.4)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from zero2r1.models.reward_head import RewardCard, load_reward_model, save_reward_model
from zero2r1.pipeline.api import heard_of_base, model_folder
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.reward_config import RewardModelRunSettings
from zero2r1.reward_models.config import RewardModelSettings, View
from zero2r1.reward_models.data import Label, Preference, Response, opening_of, read_labels, read_preferences, split_by_opening
from zero2r1.reward_models.encoding import RewardEncoder, RewardExample, ends_of, fit
from zero2r1.reward_models.report import (
    RewardReport,
    ScoredLabel,
    ScoredPair,
    length_rule_of_labels,
    length_rule_of_pairs,
    report_labels,
    report_pairs,
)
from zero2r1.reward_models.scoring import score_examples
from zero2r1.reward_models.trainer import RewardModelTrainer
from zero2r1.run_dir import RunDir
from zero2r1.tracking import open_tracker
from zero2r1.training.loop import Hooks, Outcome

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Judged = Preference | Label
J = TypeVar("J", Preference, Label)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelResult:
    """What a finished stage hands back; no folder and no report where it was stopped, no report where nothing was held out."""

    outcome: Outcome
    folder: Path | None
    report: RewardReport | None


def run_reward_model(
    settings: RewardModelRunSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool]
) -> RewardModelResult:
    """`train rm`: learn from a file, and measure on another file or on prompts held out of it.

    Raises:
        ValueError: no data, data that cannot be used, or other data than the run was started with.
    """
    train, held_out = _sides(settings, narrator)
    track = open_tracker(settings.track, run.path)
    folder = model_folder(
        settings.model, settings.base, seed=settings.seed, on_step=heard_of_base(settings.base.steps, narrator.say, should_stop)
    )
    total = -(-len(train) // settings.batch_size) * settings.epochs
    what = "pairs" if settings.kind == "preference" else "labels"
    narrator.say(f"data      {len(train)} {what} to learn, {len(held_out)} held out, about {total} updates of {settings.batch_size}")
    narrator.say(f"reads     {'the summary alone' if settings.reads == 'summary' else 'thinking and summary'}")
    with narrator.panel("RM", total, plain_every=max(1, total // 20)) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            track(row)
            show(row["step"], row)

        result = train_reward_model(folder, train, held_out, settings, run, on_step=on_step, should_stop=should_stop)
    if result.outcome is Outcome.DONE:
        narrator.say(_fitted(run))
        narrator.say((run.path / "evals" / "report.txt").read_text(encoding="utf-8").rstrip())
        narrator.say(f"reward model: {result.folder}")
    return result


def train_reward_model(
    folder_of_causal_lm: str | Path,
    train: Sequence[Judged],
    held_out: Sequence[Judged],
    settings: RewardModelSettings,
    run: RunDir,
    *,
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RewardModelResult:
    """Train a reward model on preferences or labels, as ``settings.kind`` says, and save it under ``model`` of the run.

    Measured on ``held_out`` before and after: ``evals/report.json``, and for a person ``evals/report.txt``. The scale that a reward is
    put on comes from the scores of held-out responses, of the training ones where nothing is held out. Continues where an earlier
    process stopped.

    Raises:
        ValueError: the data are of another kind, or the run was started on other data.
    """
    wanted = Preference if settings.kind == "preference" else Label
    if not all(isinstance(row, wanted) for row in (*train, *held_out)):
        raise ValueError(f"a {settings.kind} model learns from {wanted.__name__} values alone")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_reward_model(folder_of_causal_lm, device=device, seed=settings.seed, head_std=settings.head_std)
    encoder = RewardEncoder.of(tokenizer, settings.reads)
    learnt, measured = _Encoded.of(encoder, train), _Encoded.of(encoder, held_out)
    ends = ends_of((*learnt.examples, *measured.examples))

    def save(path: Path, *, mean: float = 0.0, std: float = 1.0) -> None:
        card = RewardCard(kind=settings.kind, view=settings.reads, mean=mean, std=std)
        save_reward_model(model, tokenizer, path, card=card, ends=ends)

    trainer = RewardModelTrainer(
        model,
        learnt.examples,
        settings,
        run=run,
        checkpoints=run.path / "checkpoints",
        save_model=save,
        hooks=Hooks(on_step=on_step, should_stop=should_stop),
    )
    before_file = run.path / "evals" / "before.json"
    # The model still has the weights it starts from, even where checkpoints wait to be loaded.
    if measured.rows and not before_file.exists():
        run.write_json("evals/before.json", _kept(_report(model, measured, learnt, settings)))
    run.append_event_once("data", same_under_view=learnt.same, held_out=len(measured.rows), held_out_same_under_view=measured.same)
    outcome = trainer.train()
    if outcome is Outcome.STOPPED:
        return RewardModelResult(outcome=outcome, folder=None, report=None)
    report = _report(model, measured if measured.rows else learnt, learnt, settings)
    _save_whole(run.path / "model", lambda path: save(path, mean=report.mean, std=report.std or 1.0))
    if not measured.rows:
        run.write_text("evals/report.txt", "nothing was held out, so nothing was measured\n")
        return RewardModelResult(outcome=outcome, folder=run.path / "model", report=None)
    before = run.read_json("evals/before.json")["figures"]
    run.write_json("evals/report.json", {**_kept(report), "before": before})
    run.write_text("evals/report.txt", "\n".join([*_change(before, report.figures()), *report.lines()]) + "\n")
    return RewardModelResult(outcome=outcome, folder=run.path / "model", report=report)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """Rows with their examples; pairs that differ in nothing the model reads are left out and counted."""

    rows: list[Judged]
    examples: list[RewardExample]
    same: int

    @classmethod
    def of(cls, encoder: RewardEncoder, rows: Sequence[Judged]) -> _Encoded:
        encoded = [(row, encoder.preference(row) if isinstance(row, Preference) else encoder.label(row)) for row in rows]
        kept = [(row, example) for row, example in encoded if len(set(example.response_ids)) == len(example.response_ids)]
        return cls(rows=[row for row, _ in kept], examples=[example for _, example in kept], same=len(encoded) - len(kept))


def _report(model: PreTrainedModel, measured: _Encoded, learnt: _Encoded, settings: RewardModelSettings) -> RewardReport:
    scores = score_examples(model, fit(measured.examples, settings.max_length).examples, settings.compute)
    view = settings.reads

    def words(response: Response) -> int:
        return words_read(response, view)

    if settings.kind == "preference":
        pairs = [
            ScoredPair(
                chosen=chosen,
                rejected=rejected,
                chosen_words=words(row.chosen),
                rejected_words=words(row.rejected),
                prompt=opening_of(row.messages),
            )
            for row, (chosen, rejected) in zip(_of(Preference, measured.rows), scores, strict=True)
        ]
        longer = [words(row.chosen) - words(row.rejected) for row in _of(Preference, learnt.rows)]
        return report_pairs(pairs, length_rule_of_pairs(longer))
    labels = [
        ScoredLabel(score=score, safe=row.safe, words=words(row.response), prompt=opening_of(row.messages))
        for row, (score,) in zip(_of(Label, measured.rows), scores, strict=True)
    ]
    known = _of(Label, learnt.rows)
    return report_labels(labels, length_rule_of_labels([words(row.response) for row in known], [row.safe for row in known]))


def words_read(response: Response, view: View) -> int:
    """Words of what the model reads of a response."""
    thinking = response.thinking if view == "response" else None
    return len(f"{thinking or ''} {response.summary}".split())


def _of(kind: type[J], rows: Sequence[Judged]) -> list[J]:
    found = [row for row in rows if isinstance(row, kind)]
    assert len(found) == len(rows)
    return found


def _sides(settings: RewardModelRunSettings, narrator: Narrator) -> tuple[list[Judged], list[Judged]]:
    """What is learnt and what is measured; no prompt is on both sides."""
    data = settings.data
    if data.train is None:
        raise ValueError(
            "data.train is missing: name a file of pairs (--kind preference) or labels (--kind safety), e.g. --data.train=pairs.jsonl"
        )
    read: Callable[[str], Sequence[Judged]] = read_preferences if settings.kind == "preference" else read_labels
    rows = list(read(data.train))
    if data.held_out is None:
        split = split_by_opening([opening_of(row.messages) for row in rows], settings.held_out_share, seed=settings.seed)
        return [rows[i] for i in split.train], [rows[i] for i in split.held_out]
    held_out = list(read(data.held_out))
    asked = {row.messages for row in held_out}
    train = [row for row in rows if row.messages not in asked]
    if len(train) < len(rows):
        narrator.say(f"leak      {len(rows) - len(train)} rows of {data.train} ask what {data.held_out} asks; they are not learnt")
    if not train:
        raise ValueError(f"every prompt of {data.train} stands in {data.held_out} too, so nothing is left to learn")
    return train, held_out


def _fitted(run: RunDir) -> str:
    """What was cut to the longest length and what could teach nothing, as it was written down."""
    found = {event["event"]: event for event in run.events()}
    fitted, data = found["examples"], found["data"]
    return (
        f"length    {fitted['cut']} of {fitted['count']} prompts lost their beginning, {fitted['cut_responses']} of them with a response "
        f"that filled the length alone; {data['same_under_view']} pairs were left out, equal in all that is read"
    )


def _save_whole(folder: Path, write: Callable[[Path], None]) -> None:
    temporary = folder.with_name(folder.name + ".tmp")
    for stale in (temporary, folder):
        shutil.rmtree(stale, ignore_errors=True)
    write(temporary)
    os.replace(temporary, folder)


def _kept(report: RewardReport) -> dict[str, Any]:
    """A report as every other evaluation is kept: figures, one value per case of every statistic, and the rest."""
    whole = report.to_dict()
    return {"figures": report.figures(), "arrays": whole.pop("arrays"), "report": whole}


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Before and after side by side."""
    shown = [name for name in ("accuracy", "auc", "calibration_error") if name in before and name in after]
    return [f"{'held out':<20} {'before':>8} {'after':>8}", *(f"{name:<20} {before[name]:8.3f} {after[name]:8.3f}" for name in shown), ""]
