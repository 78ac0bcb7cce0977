"""Finding objects: one contract, and what fulfils it."""
