"""Frozen records, one file per aggregate. Import them from their own modules."""
