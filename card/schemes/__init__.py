"""The two schemes: CARD, one device after another, and SFT, in parallel with compressed activations."""
