"""Pretrained backbones, and the stored activations of their frozen trunks."""
