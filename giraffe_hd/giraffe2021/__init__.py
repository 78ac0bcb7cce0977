"""GIRAFFE (Niemeyer and Geiger, CVPR 2021), tensor for tensor: several objects in one volume."""
