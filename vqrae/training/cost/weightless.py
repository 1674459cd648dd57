"""Models of full size that hold no memory.

On the meta device a model has shapes but no values; there, autocast does not apply, and attention takes a path that no
real device takes. A *faked* tensor has no values either, but answers for a real device: autocast and attention are
those of that device. So models are built on meta and run faked, as the CPU.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder

Module = TypeVar("Module", bound=nn.Module)


def meta_model(config: VQRAEConfig) -> VQRAE:
    """The tokenizer on the meta device."""
    with torch.device("meta"):
        return VQRAE(config)


def meta_encoder(config: VQRAEConfig) -> Encoder:
    """Its encoder alone, which distillation has a second one of, on the meta device."""
    with torch.device("meta"):
        return Encoder(config.encoder)


def faked(module: Module, mode: FakeTensorMode) -> Module:
    """Replace every parameter and buffer of a module by a faked one on the CPU, in place; return the module."""
    with mode:
        for part in module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return module
