"""Container images: what they are made from, and the CPU one built and used."""
