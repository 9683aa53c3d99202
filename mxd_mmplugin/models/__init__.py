"""Detectors that the wheel of mmdet3d does not carry; each is imported by its own `custom_imports` entry."""
