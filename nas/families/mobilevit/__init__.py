"""MobileViT v1, v2 and v3 (arXiv 2110.02178, 2206.02680, 2209.15159)."""
