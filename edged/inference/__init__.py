"""From an image to a prediction: tensors, runtimes, decoding."""
