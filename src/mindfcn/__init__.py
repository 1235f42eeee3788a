"""Fully convolutional semantic segmentation on MindSpore."""
