"""Five-fold cross-validation of a reward model from SmolLM2-135M on preference pairs, beside what length alone would get.

    bash scripts/smollm2.sh
    python benchmarks/reward_model_hh.py hh_rlhf_harmless_test.jsonl.gz --json rm.json

Folds keep dialogues that open with the same question together; the interval is a bootstrap over these openings. The rule of length
(longer or shorter wins) is chosen on each fold's training part. Every fold is written when it is done, and a stopped run continues.
To try settings, ``--within 0`` takes the training part of fold 0 for the whole data, so that its test part is never looked at.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zero2r1.models.reward_head import RewardCard, load_reward_model, save_reward_model
from zero2r1.models.smollm2 import smollm2_folder
from zero2r1.models.tokenizer import TextEncoder
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.data import Preference, opening_of, preference_of, usable_rows
from zero2r1.reward_models.encoding import RewardEncoder, ends_of, fit
from zero2r1.reward_models.report import ScoredPair, by_length, credit, interval, length_rule_of_pairs, report_pairs
from zero2r1.reward_models.scoring import score_examples
from zero2r1.reward_models.trainer import RewardModelTrainer
from zero2r1.run_dir import RunDir
from zero2r1.seeds import derive_seed
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Hooks


def folds_of(preferences: Sequence[Preference], count: int, *, seed: int) -> list[list[int]]:
    """Indices of the test part of each fold; preferences with one opening are in one fold."""
    openings: dict[str, list[int]] = {}
    for i, preference in enumerate(preferences):
        openings.setdefault(opening_of(preference.messages), []).append(i)
    groups = list(openings.values())
    random.Random(derive_seed(seed, "folds")).shuffle(groups)
    parts: list[list[int]] = [[] for _ in range(count)]
    for group in groups:
        min(parts, key=len).extend(group)
    return parts


def longer(preference: Preference) -> int:
    return len(preference.chosen.summary.split()) - len(preference.rejected.summary.split())


def settings_of(arguments: argparse.Namespace) -> RewardModelSettings:
    return RewardModelSettings(
        kind="preference",
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        max_length=arguments.max_length,
        head_std=arguments.head_std,
        seed=arguments.seed,
        optimizer=OptimizerSettings(
            learning_rate=arguments.lr, schedule="linear", final_factor=0.1, warmup_steps=arguments.warmup, weight_decay=arguments.decay
        ),
        compute=ComputeSettings(dtype=arguments.dtype, tokens_per_micro_batch=arguments.tokens, onednn="all"),
        checkpoint_every=100_000,
        keep_checkpoints=1,
    )


def run_fold(
    train: Sequence[Preference], test: Sequence[Preference], settings: RewardModelSettings, *, frozen_layers: int
) -> dict[str, Any]:
    """Train on one part, measure on the other; the row that is kept. Embeddings and the lowest ``frozen_layers`` layers are not trained."""
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_reward_model(smollm2_folder(), device=device, seed=settings.seed, head_std=settings.head_std)
    for module in [model.get_input_embeddings(), *model.get_decoder().layers[:frozen_layers]] if frozen_layers else []:
        module.requires_grad_(False)
    encoder = RewardEncoder(TextEncoder(tokenizer), chat=True, view=settings.reads)
    examples = [encoder.preference(preference) for preference in train]
    card = RewardCard(kind=settings.kind, view=settings.reads)

    def heard(row: Any) -> None:
        if row["step"] % 5 == 0:
            figures = "loss {loss:.4f} accuracy {accuracy:.3f} margin {margin:.3f} {tokens_per_s:.0f} tokens/s"
            print(f"  step {row['step']} {figures.format(**row)}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardModelTrainer(
            model,
            examples,
            settings,
            run=RunDir(Path(folder)),
            checkpoints=Path(folder) / "checkpoints",
            save_model=lambda path: save_reward_model(model, tokenizer, path, card=card, ends=ends_of(examples)),
            hooks=Hooks(on_step=heard),
        )
        trainer.train()
    trained = time.perf_counter() - began
    held_out = fit([encoder.preference(preference) for preference in test], settings.max_length)
    scored = [
        ScoredPair(
            chosen=chosen,
            rejected=rejected,
            chosen_words=len(preference.chosen.summary.split()),
            rejected_words=len(preference.rejected.summary.split()),
            prompt=opening_of(preference.messages),
        )
        for preference, (chosen, rejected) in zip(test, score_examples(model, held_out.examples, settings.compute), strict=True)
    ]
    rule = length_rule_of_pairs([longer(preference) for preference in train])
    report = report_pairs(scored, rule)
    print("\n".join(f"  {line}" for line in report.lines()), flush=True)
    return {
        "trained_on": len(train),
        "steps": trainer.steps,
        "cut": held_out.cut,
        "seconds_training": trained,
        "seconds": time.perf_counter() - began,
        "report": report.to_dict(),
        "pairs": [asdict(pair) for pair in scored],
        "by_length": [by_length(pair, rule) for pair in scored],
    }


def pooled(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All test parts together; the intervals are bootstraps over openings."""
    pairs = [ScoredPair(**pair) for fold in folds for pair in fold["pairs"]]
    openings = [pair.prompt for pair in pairs]
    won = [credit(pair.margin) for pair in pairs]
    by_rule = [value for fold in folds for value in fold["by_length"]]
    low, high = interval(won, openings)
    length_low, length_high = interval(by_rule, openings)
    gain_low, gain_high = interval([a - b for a, b in zip(won, by_rule, strict=True)], openings)
    figures = {
        "pairs": len(pairs),
        "openings": len(set(openings)),
        "accuracy": [sum(won) / len(won), low, high],
        "length_only": [sum(by_rule) / len(by_rule), length_low, length_high],
        "above_length": [(sum(won) - sum(by_rule)) / len(won), gain_low, gain_high],
        "seconds": sum(fold["seconds"] for fold in folds),
    }
    for name, side in (("chosen_longer", 1), ("chosen_shorter", -1)):
        part = [credit(pair.margin) for pair in pairs if pair.longer * side > 0]
        figures[name] = [sum(part) / max(1, len(part)), len(part)]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="preference pairs, for example of hh-rlhf")
    parser.add_argument("--json", type=Path, required=True, help="results, fold by fold; a stopped run continues from it")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=800, help="how many pairs of the file, drawn at random")
    parser.add_argument("--max-length", type=int, default=96, help="tokens; longer prompts lose their beginning")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--head-std", type=float, default=0.02)
    parser.add_argument("--frozen-layers", type=int, default=15, help="of the 30, from below, with the embeddings: their gradient is saved")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of one forward pass")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=int, default=None, help="take the training part of this fold for the whole data")
    parser.add_argument("--only", type=int, default=None, help="run this fold alone")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        print(f"skipped: there is no file {arguments.data}")
        return 0
    torch.set_num_threads(arguments.threads)
    preferences, faults = usable_rows(arguments.data, preference_of)
    drawn = random.Random(derive_seed(arguments.seed, "pairs")).sample(range(len(preferences)), min(arguments.pairs, len(preferences)))
    preferences = [preferences[i] for i in sorted(drawn)]
    folds = folds_of(preferences, arguments.folds, seed=arguments.seed)
    if arguments.within is not None:
        inner = sorted(set(range(len(preferences))) - set(folds[arguments.within]))
        preferences = [preferences[i] for i in inner]
        folds = folds_of(preferences, arguments.folds, seed=arguments.seed + 1)
    asked = {name: str(value) for name, value in vars(arguments).items() if name not in ("json", "threads", "only")}
    done: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"settings": asked, "folds": {}}
    if done["settings"] != asked:
        raise SystemExit(f"{arguments.json} holds results of other settings: {done['settings']}")
    print(f"{len(preferences)} pairs, {len(faults)} rows of the file cannot be used, {arguments.folds} folds", flush=True)
    for number, test in enumerate(folds):
        if str(number) in done["folds"] or arguments.only not in (None, number):
            continue
        train = sorted(set(range(len(preferences))) - set(test))
        print(f"fold {number}: {len(train)} to train on, {len(test)} to test", flush=True)
        parts = ([preferences[i] for i in side] for side in (train, test))
        row = run_fold(*parts, settings_of(arguments), frozen_layers=arguments.frozen_layers)
        done["folds"][str(number)] = row
        done["pooled"] = pooled(list(done["folds"].values()))
        arguments.json.write_text(json.dumps(done, indent=1))
    print(json.dumps(done["pooled"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
