"""The agent: what measures boards whose Python cannot run cardlab. Python 3.6 and the standard library only.

`cardlab.profilers.agent.pack` packs this folder, with a job (measure/job.py), into one file that a board runs as it is:

    python3 card-agent.pyz run --out board.zip

The board's own torch (1.10 and later) is used where there is one. How to measure is said in ../board, which is packed
whole: here is what runs on a board (plain layers, rows of a bundle, a command line) and no rule. Nothing else of
cardlab is imported, and the rest of cardlab imports nothing from here except to pack and to test it.
"""

AGENT_VERSION = 3
