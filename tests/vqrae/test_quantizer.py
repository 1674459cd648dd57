from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqrae.model.quantizers.config import SimVQConfig
from vqrae.model.quantizers.simvq import SimVQ

K, E = 32, 12


def quantizer(seed: int = 0, **fields: float) -> SimVQ:
    torch.manual_seed(seed)
    return SimVQ(SimVQConfig(codebook_size=K, code_width=E, **fields))


def projected(seed: int = 1, scale: float = 1.0) -> Tensor:
    return (torch.randn(2, 9, E, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


def test_vectors_are_the_chosen_codes() -> None:
    module, z = quantizer(), projected()
    out = module(z)
    assert out.vectors.shape == (2, 9, E)
    assert (out.indices.shape, out.indices.dtype) == ((2, 9), torch.int64)
    torch.testing.assert_close(out.vectors, module.codes()[out.indices], atol=1e-6, rtol=0)


def test_indices_are_the_nearest_effective_codes() -> None:
    module, z = quantizer(), projected()
    distances = torch.cdist(z.detach().double(), module.codes().detach().double())
    assert torch.equal(module(z).indices, distances.argmin(-1))


def test_gradient_passes_straight_through() -> None:
    module, z = quantizer(), projected()
    upstream = torch.randn(2, 9, E, generator=torch.Generator().manual_seed(2))
    (module(z).vectors * upstream).sum().backward()
    assert torch.equal(z.grad, upstream)
    assert module.transform.weight.grad is None, "the reconstruction does not move the codes, their loss does"


@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_loss_is_codebook_plus_beta_commitment(beta: float) -> None:
    module, z = quantizer(beta=beta), projected()
    out = module(z)
    distance = F.mse_loss(module.codes()[out.indices], z)
    torch.testing.assert_close(out.loss, (1 + beta) * distance)
    assert (out.loss.dtype, out.loss.shape) == (torch.float32, ())


def test_beta_weighs_the_side_of_the_features() -> None:
    """The released code's side: ¼ on the commitment of z, 1 on the codes (not the other way round)."""
    module, z = quantizer(beta=0.25), projected()
    out = module(z)
    out.loss.backward()
    chosen = module.codes()[out.indices].detach()
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - chosen) / z.numel())
    bias_gradient = (2 * (chosen - z.detach()) / z.numel()).sum((0, 1))
    torch.testing.assert_close(module.transform.bias.grad, bias_gradient)


def test_only_the_map_learns() -> None:
    module = quantizer()
    assert {name for name, _ in module.named_parameters()} == {"transform.weight", "transform.bias"}
    assert "codebook" in module.state_dict(), "frozen, and yet saved"
    before = module.codebook.clone(), module.codes().detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(projected()).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    optimizer.step()
    assert torch.equal(module.codebook, before[0])
    moved = (module.codes() - before[1]).norm(dim=1)
    assert (moved > 0).all(), "one step moves every code, chosen or not"


def test_normal_init_has_simvqs_scale() -> None:
    torch.manual_seed(0)
    codebook = SimVQ(SimVQConfig(codebook_size=2000, code_width=64)).codebook
    assert codebook.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert codebook.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)


def test_set_codes_makes_them_the_effective_codes() -> None:
    module = quantizer()
    codes = torch.randn(K, E, generator=torch.Generator().manual_seed(0))
    module.set_codes(codes)
    assert torch.equal(module.codebook, codes)
    assert torch.equal(module.codes(), codes)
    assert torch.equal(module.transform.weight, torch.eye(E))
    assert not module.codebook.requires_grad


def test_float32_under_autocast() -> None:
    module, z = quantizer(), projected(scale=5.0)
    plain = module(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast = module(z)
        assert module.transform(z).dtype == torch.bfloat16, "autocast is on around the quantizer"
    assert (cast.vectors.dtype, cast.loss.dtype) == (torch.float32, torch.float32)
    assert torch.equal(cast.vectors, plain.vectors)
    assert torch.equal(cast.indices, plain.indices)
    assert torch.equal(cast.loss, plain.loss)


def test_bfloat16_input_is_computed_in_float32() -> None:
    module, z = quantizer(), projected().detach().bfloat16()
    out = module(z)
    assert out.vectors.dtype == torch.float32
    assert torch.equal(out.indices, module(z.float()).indices)
