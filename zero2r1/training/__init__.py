"""What every gradient step shares: packing without padding, log-probabilities without [T, V] logits, optimizers."""
