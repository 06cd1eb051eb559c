"""core/laws."""
