"""YOLACT, YOLACT++ and YolactEdge (Bolya et al. 2019, 2020; Liu et al. 2021), and a fast config of the same family."""
