"""A pretrained trunk and the activations it stores."""
