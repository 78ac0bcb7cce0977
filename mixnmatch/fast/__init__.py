"""The fast MixNMatch: the paper's codes and stages with cheaper parts; it trains on a CPU."""
