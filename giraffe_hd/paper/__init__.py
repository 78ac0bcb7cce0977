"""The published GIRAFFE HD (Xue, Li, Singh, Lee, CVPR 2022), tensor for tensor."""
