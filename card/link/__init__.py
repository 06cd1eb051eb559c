"""The link: 5G NR tables, named SNR mappings, a channel drawn per round, and measured rates."""
