"""The published MixNMatch (Li, Singh, Ojha, Lee, CVPR 2020) at 128 px, tensor for tensor.

The stages of its generator are those of FineGAN (Singh, Ojha, Lee, CVPR 2019).
"""
