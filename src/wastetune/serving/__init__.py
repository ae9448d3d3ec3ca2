"""The HTTP service and the app."""
