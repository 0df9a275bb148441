"""Supervised fine-tuning (paper sections 2.3.1, 2.3.3 and 2.4): stage 1, stage 3 and distillation are this with other data.

The loss is the one of the training core with other weights: minus log pi(token), each response token of an update weighing the same.
"""
