"""What can be measured: bundles, the PyTorch model in its forms, anyone's files, and what each has to compute."""
