"""The options of everything a person does: one dataclass for each command, declared once.

They import nothing heavy, so that help is quick. `cardlab.workflows` gives them by name.
"""
