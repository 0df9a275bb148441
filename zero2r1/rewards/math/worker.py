"""The inside of the wall: reads one comparison a line from standard input, writes one outcome a line. Started by ``wall.py``.

Text of a model is parsed here by a grammar of our own and never evaluated; what could still take long or much memory ends with
this process alone.
"""

from __future__ import annotations

import json
import resource
import sys

MEMORY_BYTES = 1 << 30
RECURSION = 4000


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(RECURSION)
    from zero2r1.rewards.math.compare import compare

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            outcome = compare(request["gold"], request["answer"], percent_asked=request["percent_asked"])
            reply = {"correct": outcome.correct, "why": outcome.why, "vote": outcome.vote}
        except (RecursionError, MemoryError, ArithmeticError, ValueError) as error:  # a trust boundary: text of a model ends no worker
            reply = {"correct": False, "why": f"the answer could not be compared: {type(error).__name__}", "vote": None}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
