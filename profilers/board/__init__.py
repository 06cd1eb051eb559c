"""What an old board can run too: kernel files, power rails, and the rules of measuring (Python 3.6, no library).

The agent packs this folder as it is, so that a rule stands in one place.
"""
