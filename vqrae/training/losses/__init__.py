"""The terms of the training losses. Each is a float32 scalar mean; weights are applied where the terms are summed."""
