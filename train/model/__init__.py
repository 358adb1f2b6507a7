"""Models for training: configuration, initialisation, pretrained weights, kernels and objectives."""
