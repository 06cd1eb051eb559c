"""Pure functions from records to plain documents; drawing stands elsewhere."""
