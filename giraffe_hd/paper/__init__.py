"""The published systems: GIRAFFE HD (Xue et al., CVPR 2022) and GIRAFFE (Niemeyer and Geiger, CVPR 2021)."""
