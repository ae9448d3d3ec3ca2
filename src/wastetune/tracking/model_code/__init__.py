"""What is copied into a registered model."""
