"""The reference model in PyTorch: encoder, quantizer, decoder, and the tokenizer that they make."""

from vqrae.model.vqrae import VQRAE

__all__ = ["VQRAE"]
