"""EfficientFormer V1 (Li et al., NeurIPS 2022, arXiv 2206.01191)."""
