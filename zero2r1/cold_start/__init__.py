"""Cold start (paper section 2.3.1, supplement B.3.2): thousands of long, readable chains of thought to begin with.

Four ways lead to them: a worked example to follow, or a plain request for a detailed answer (:mod:`~zero2r1.cold_start.gather`);
outputs of R1-Zero that are correct and readable, rewritten where wanted (:mod:`~zero2r1.cold_start.rewrite`); and a person who
approves, edits or rejects (:mod:`~zero2r1.cold_start.review`). All write ``|special_token|reasoning|special_token|summary``.

Each step takes samples and rejections in order and yields samples and rejections in the same order, as they come. A rejection
passes through every later step as it is, so whatever goes in comes out as exactly one of the two.
"""
