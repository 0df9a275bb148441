"""The laptop world: a closed, bilingual little universe in which a 0.8 M parameter model can learn to reason in minutes.

``problems`` asks and checks, ``corpus`` writes the text a base model is pretrained on, ``words`` is the vocabulary.
What the corpus plants, and so what reinforcement learning can find in it, is stated in docs/laptop-world.md.
"""
