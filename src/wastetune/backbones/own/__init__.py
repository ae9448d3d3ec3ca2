"""Backbones of one's own: a Keras file, an ONNX file, or a preset of KerasHub."""
