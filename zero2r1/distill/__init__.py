"""Distillation (paper section 2.4, Table 6): a small model learns from a large one.

The paper's way is off-policy: supervised fine-tuning of any student on what stage 3 kept, text only, no logits and no RL. That is
:mod:`zero2r1.sft` with other data; here are its six published recipes (:mod:`zero2r1.distill.presets`). The other way is on-policy, an
option beside the paper: the student answers, and at every token it sampled its distribution is drawn to the teacher's,

    L = 1/N sum over sampled tokens t of KL( student(. | q, o_<t) || teacher(. | q, o_<t) ),        N tokens in the update.
"""
