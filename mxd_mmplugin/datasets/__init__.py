"""Data sets and their transforms; mmdet3d is imported only by the modules that need it."""
