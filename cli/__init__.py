"""The command line: the only room that joins rooms, reads settings or prints."""
