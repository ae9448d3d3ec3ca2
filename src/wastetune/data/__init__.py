"""An image folder: read, split, decoded."""
