"""SimVQ against an independent implementation of it."""

from __future__ import annotations

import pytest
import torch
import vector_quantize_pytorch
from torch import Tensor, nn

from vqrae.model.quantizers.config import SimVQConfig
from vqrae.model.quantizers.simvq import SimVQ

K, E = 96, 24


def ours(seed: int, beta: float) -> SimVQ:
    torch.manual_seed(seed)
    return SimVQ(SimVQConfig(codebook_size=K, code_width=E, beta=beta))


def theirs(module: SimVQ) -> vector_quantize_pytorch.SimVQ:
    """Theirs with our weights: the same codes behind the same map, straight-through, β on the features' side."""
    reference = vector_quantize_pytorch.SimVQ(
        dim=E,
        codebook_size=K,
        codebook_transform=nn.Linear(E, E),
        rotation_trick=False,
        input_to_quantize_commit_loss_weight=module.beta,
    )
    reference.frozen_codebook.copy_(module.codebook)
    reference.code_transform.load_state_dict(module.transform.state_dict())
    return reference


def features(seed: int, scale: float) -> Tensor:
    return torch.randn(3, 50, E, generator=torch.Generator().manual_seed(seed + 1000)) * scale


def train_like(module: SimVQ, seed: int) -> None:
    """Codes placed among the features, then a map that is no longer the identity and shifts."""
    module.set_codes(features(seed + 1, 2.0).flatten(0, 1)[:K])
    with torch.no_grad():
        module.transform.weight.add_(torch.randn(E, E) * 0.1)
        module.transform.bias.normal_(std=0.5)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("beta", [0.25, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_it_quantizes_as_the_reference_does(seed: int, beta: float, trained: bool) -> None:
    module = ours(seed, beta)
    if trained:
        train_like(module, seed)
    reference, scale = theirs(module), 2.0 if trained else 1.0
    z, their_z = (features(seed, scale).requires_grad_() for _ in range(2))
    vectors, indices, loss = module(z)
    their_vectors, their_indices, their_loss = reference(their_z)
    assert torch.equal(indices, their_indices)
    assert len(indices.unique()) > 10, "codes enough that agreement means something"
    torch.testing.assert_close(vectors, their_vectors, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(loss, their_loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(module.lookup(indices), reference.indices_to_codes(indices), atol=1e-6, rtol=1e-6)

    (vectors.square().sum() + loss).backward()
    (their_vectors.square().sum() + their_loss).backward()
    torch.testing.assert_close(z.grad, their_z.grad, atol=1e-5, rtol=1e-5)
    for own, reference_weight in zip(module.transform.parameters(), reference.code_transform.parameters(), strict=True):
        torch.testing.assert_close(own.grad, reference_weight.grad, atol=1e-6, rtol=1e-5)
