"""EfficientViT (Liu et al., CVPR 2023, arXiv 2305.07027)."""
