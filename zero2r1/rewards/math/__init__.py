r"""The mathematical verifier: from two texts to equal, not equal, or a reference nobody can read (paper section 2.2.2).

Read in this order: ``verify.py`` (the fast path and the policies), ``wall.py`` (the process around the rest), ``compare.py`` (kinds),
``clean.py`` and ``parser.py`` (from text to tree), ``exact.py`` and ``numeric.py`` (equality of values).
"""
