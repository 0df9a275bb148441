"""The stages of the paper, each a short program: settings in, run folder out."""
