"""The fast GIRAFFE HD: the paper's knobs and losses with cheaper parts; it trains on a CPU."""
