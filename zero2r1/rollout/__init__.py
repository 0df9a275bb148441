"""Sampling (paper, supplement B.1: the rollout module): requests in, completions with exact log-probabilities out."""
