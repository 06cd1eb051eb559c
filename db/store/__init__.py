"""db/store."""
