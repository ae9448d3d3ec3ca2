"""A finished study as one HTML file, and its parts."""
