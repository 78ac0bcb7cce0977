"""What a generator is worth in numbers: distances to real pictures, knobs that do as they say, swaps that stay put."""
