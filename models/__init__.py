"""The zoo: one file per network."""
