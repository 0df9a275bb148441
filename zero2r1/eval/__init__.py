"""Evaluation (paper section 3): pass@1, pass@k and majority vote over k samples, lengths, reflection and language mixing."""
