"""Evaluation of generators: distances to real pictures, accuracy of knobs, leakage between factors."""
