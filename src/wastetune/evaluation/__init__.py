"""What predictions are worth: scores, calibration, shift."""
