"""What an old board can run too: kernel files, power rails, power modes, and the rules of measuring.

The agent packs what it needs of this folder as it is (agent/pack.py), so that a rule stands in one place; those modules
keep to Python 3.6, the standard library and relative imports.
"""
