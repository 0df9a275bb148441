"""One seed, many independent streams: every random choice is a function of (seed, what it is for).

Nothing random is carried from step to step, so a resumed run needs no generator state to repeat itself exactly.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for ``purpose``: ``derive_seed(0, "rollout", step, problem_index, sample)``.

    Equal arguments give equal seeds on every machine; different ones give unrelated seeds.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
