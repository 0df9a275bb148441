"""Rule-based rewards (paper sections 2.2.2 and 2.3.2): accuracy, format, language, and their combination.

Reward functions have TRL's signature, so one written for either works in both: called with keywords ``prompts``,
``completions``, ``completion_ids`` and every column of the problems, each a list with one entry per completion; returns one
number per completion, or ``None`` where it does not apply.
"""
