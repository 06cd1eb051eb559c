"""Alembic environment and the released schemas, one revision a release."""
