"""Engines of TensorRT and TensorRT-RTX: building, loading and running them, written once for both."""
