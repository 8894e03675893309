"""A shared prompt computed once: attention kernels, the trimmed last layer, the exactness trial, and the choice of layout."""
