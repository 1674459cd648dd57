"""A bundle behind HTTP: the Open Inference Protocol, images to tokens and back; torch-free."""
