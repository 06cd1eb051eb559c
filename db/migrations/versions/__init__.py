"""One module a released schema. A released one is never edited."""
