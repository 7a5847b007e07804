"""EfficientFormer V2 (Li et al., ICCV 2023, arXiv 2212.08059)."""
