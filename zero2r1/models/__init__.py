"""Models as `transformers` classes: loading, saving, the attention they are driven with, the tiny one of the laptop world."""
