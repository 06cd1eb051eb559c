"""What an old board can run too: kernel files, power rails, power modes, timers, and the rules of measuring.

The agent packs this folder as it is (agent/pack.py), so that a rule stands in one place. So everything here keeps to
Python 3.6, the standard library and relative imports: no room of the house is imported, and torch is handed in.
"""
