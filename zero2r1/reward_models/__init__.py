"""Reward models for what no rule can check (paper section 2.3.4): helpfulness from pairs, harmlessness from labels.

A scalar head on a causal language model reads the last token of a response: s = w . h_last. From a preference the model learns
-log sigmoid(s_chosen - s_rejected), reading the summary alone; from a label the cross-entropy of sigmoid(s), reading thinking and summary.
"""
