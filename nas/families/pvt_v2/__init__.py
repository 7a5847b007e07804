"""PVT v2 (Wang et al., CVMJ 2022, arXiv 2106.13797)."""
