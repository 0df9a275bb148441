"""Reviewed samples of any world, graded again by the rule that their problem names."""

from __future__ import annotations

from pathlib import Path

from zero2r1.cold_start.review import Review, import_review
from zero2r1.pipeline.laptop import verify
from zero2r1.rejection_sampling import grade_by_rules
from zero2r1.rewards.accuracy import VERIFIERS, accuracy_reward
from zero2r1.rewards.combine import make_grader
from zero2r1.samples import Sample, read_samples, write_samples
from zero2r1.tasks.laptop.problems import VERIFIER


def import_file(reviewed: Path, file: Path, *, reviewer: str, out: Path) -> Review:
    """Import decisions and edits, and write what was kept. Samples that no rule can grade pass on the reviewer's word.

    Raises:
        ValueError: the reviewed file cannot be used; the message lists everything with its line.
    """
    verifiers = {**VERIFIERS, VERIFIER: verify}
    grade = grade_by_rules(make_grader({"accuracy": accuracy_reward(verifiers)}, {"accuracy": 1.0}))

    def still_right(sample: Sample) -> bool:
        return sample.problem.verifier not in verifiers or grade([sample])[0][0] is not False

    review = import_review(reviewed, read_samples(file), reviewer=reviewer, still_right=still_right)
    write_samples(out, review.kept)
    return review
