from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import NETWORKS, SIZE, WIDTH, tiny_config
from torch import Tensor, nn

from vqrae.model.encoder import Encoder
from vqrae.model.encoders.library import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN
from vqrae.runtimes.errors import CheckpointError

Built = tuple[nn.Module, Callable[[Tensor], Tensor]]
"""What is saved as a checkpoint, and the library's own features (B, N, C) of normalized pixels."""

SHARED = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SHARED, "vocab_size": 40, "max_position_embeddings": 16, "num_key_value_heads": 2}
INTERNVIT = NETWORKS["internvit"][1]


def siglip() -> Built:
    model = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(**SHARED, image_size=SIZE, patch_size=8)
    )  # with the pooling head, as on the hub
    return model, lambda pixels: model(pixels).last_hidden_state


def full_siglip() -> Built:
    vision = {**SHARED, "image_size": SIZE, "patch_size": 8}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config={**TEXT}, vision_config=vision))
    return model, lambda pixels: model.vision_model(pixels).last_hidden_state


def dinov2() -> Built:
    model = transformers.Dinov2Model(transformers.Dinov2Config(**NETWORKS["dinov2"][1]))
    return model, lambda pixels: model(pixels).last_hidden_state[:, 1:]


def internvit() -> Built:
    model = transformers.InternVLVisionModel(transformers.InternVLVisionConfig(**INTERNVIT))
    return model, lambda pixels: model(pixels).last_hidden_state[:, 1:]


def internvl() -> Built:
    text = {**TEXT, "model_type": "qwen2", "vocab_size": 64}
    config = transformers.InternVLConfig(vision_config=INTERNVIT, text_config=text, image_token_id=63)
    model = transformers.InternVLForConditionalGeneration(config)
    return model, lambda pixels: model.model.vision_tower(pixels).last_hidden_state[:, 1:]


BUILDERS = {
    "siglip_vision_model": siglip,
    "siglip": full_siglip,
    "dinov2": dinov2,
    "internvl_vision": internvit,
    "internvl": internvl,
}


def build(name: str) -> Built:
    """Every parameter random, so that none that fails to load goes unseen."""
    torch.manual_seed(0)
    model, features = BUILDERS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval(), features


@pytest.fixture(params=list(BUILDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def saved(kind: str, folder: Path, **preprocessor: Any) -> Callable[[Tensor], Tensor]:
    model, features = build(kind)
    model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return features


HUB_LAYOUT = {
    "siglip": {
        "logit_scale",
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_model.head.probe",
        "vision_model.post_layernorm.weight",
    },
    "dinov2": {
        "embeddings.mask_token",
        "encoder.layer.0.attention.attention.query.weight",
        "encoder.layer.0.layer_scale1.lambda1",
        "layernorm.weight",
    },
    "internvl": {
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.embeddings.cls_token",
        "vision_tower.encoder.layer.0.lambda_1",
    },
}
"""Tensor names of google/siglip2-so400m-patch16-256, facebook/dinov2-base and OpenGVLab/InternVL3-1B-hf on the hub."""


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def random_pixels(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("hub_kind", sorted(HUB_LAYOUT))
def test_what_is_saved_here_is_laid_out_as_on_the_hub(hub_kind: str, tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing about the checkpoints that users load.

    SigLIP2 of one resolution come as `siglip`, text tower and pooling head included.
    """
    saved(hub_kind, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == hub_kind
    assert set(load_file(tmp_path / "model.safetensors")) >= HUB_LAYOUT[hub_kind]


@torch.inference_mode()
def test_features_equal_the_librarys_own(kind: str, tmp_path: Path) -> None:
    library = saved(kind, tmp_path, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    encoder = Encoder.from_pretrained(str(tmp_path)).eval()
    features = encoder(random_pixels())
    assert features.shape == (2, 16, WIDTH)
    # A mean and std of 0.5 map [0, 1] back to our own [-1, 1].
    torch.testing.assert_close(features, library(random_pixels()), atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_hidden_states_are_the_librarys_own(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    encoder = Encoder.from_pretrained(str(tmp_path)).eval()
    pixels = random_pixels()
    first, second, features = encoder.hidden_states(pixels, [1, 2])
    normalized = ((pixels + 1) / 2 - encoder.image_mean) / encoder.image_std
    theirs = encoder.network(normalized, output_hidden_states=True).hidden_states
    assert torch.equal(first, theirs[1][:, encoder.prefix_tokens :])
    assert torch.equal(second, theirs[2][:, encoder.prefix_tokens :])
    assert torch.equal(features, encoder(pixels))


@torch.inference_mode()
def test_preprocessor_config_is_honoured(kind: str, tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    library = saved(kind, tmp_path, image_mean=mean, image_std=std)
    encoder = Encoder.from_pretrained(str(tmp_path)).eval()
    assert (encoder.config.image_mean, encoder.config.image_std) == (tuple(mean), tuple(std))
    zero_to_one = (random_pixels() + 1) / 2
    normalized = (zero_to_one - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(encoder(random_pixels()), library(normalized), atol=1e-5, rtol=1e-5)


PROCESSORS: dict[str, dict[str, Any]] = {
    "as usual": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "not normalized": {"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]},
    "of bytes": {"rescale_factor": 1.0, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    "not rescaled": {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    "neither": {"do_rescale": False, "do_normalize": False},
    "another factor": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
    "half of it": {"image_mean": [0.1, 0.2, 0.3]},
    "nothing": {},
}


@pytest.mark.parametrize("layout", ["transformers 4", "transformers 5", "both"])
@pytest.mark.parametrize("fields", PROCESSORS.values(), ids=PROCESSORS.keys())
def test_pixels_are_normalized_as_the_librarys_own_processor_does(
    fields: dict[str, Any], layout: str, tmp_path: Path
) -> None:
    """Whatever the file says, and whichever of the two layouts it has (family E)."""
    saved("siglip_vision_model", tmp_path)
    processor = {"image_processor_type": "SiglipImageProcessor", **fields}
    if layout != "transformers 4":
        whole = {"processor_class": "SiglipProcessor", "image_processor": processor}
        (tmp_path / "processor_config.json").write_text(json.dumps(whole))
        processor = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.9, 0.9, 0.9]}
    if layout != "transformers 5":
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    image = torch.randint(0, 256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    library = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = library(images=[image.numpy()], do_resize=False, return_tensors="pt").pixel_values[0]
    encoder = Encoder.from_pretrained(str(tmp_path))
    ours = (image.permute(2, 0, 1) / 255 - encoder.image_mean) / encoder.image_std
    torch.testing.assert_close(ours, expected.float(), atol=1e-4, rtol=1e-5)


def test_a_processor_without_images_leaves_the_other_file_to_count(tmp_path: Path) -> None:
    saved("siglip_vision_model", tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    (tmp_path / "processor_config.json").write_text('{"processor_class": "SiglipProcessor"}')
    assert Encoder.from_pretrained(str(tmp_path)).config.image_mean == (0.1, 0.2, 0.3)


class TestHostileCheckpoints:
    """What a configuration asks for is neither run nor built (fault 46), and weights are numbers (family E)."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"_attn_implementation": "kernels-community/flash-attn"},
            {"attn_implementation": "kernels-community/flash-attn"},
            {"auto_map": {"AutoConfig": "of_tomorrow.Config", "AutoModel": "of_tomorrow.Model"}},
            {"_experts_implementation": "x/y"},
            {"torchscript": True, "pruned_heads": {"0": [0]}},
        ],
    )
    def test_what_runs_code_never_reaches_transformers(self, fields: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "of_tomorrow.py").write_text("raise SystemExit('run')")
        features = saved("siglip_vision_model", tmp_path)
        edit_config(tmp_path, **fields)
        encoder = Encoder.from_pretrained(str(tmp_path)).eval()
        assert not fields.keys() & encoder.config.network.keys()
        pixels = random_pixels()
        torch.testing.assert_close(encoder(pixels), features(pixels), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"hidden_size": 10**9}, "hidden_size 1000000000, where less than or equal to 16384 is expected"),
            ({"hidden_size": "32"}, "hidden_size '32', where a valid integer is expected"),
            ({"hidden_size": -32}, "hidden_size -32, where greater than or equal to 1 is expected"),
            ({"num_hidden_layers": 10**7}, "num_hidden_layers 10000000, where less than"),
            ({"num_hidden_layers": None}, "num_hidden_layers None, where a valid integer is expected"),
            ({"num_attention_heads": 0}, "num_attention_heads 0, where greater than"),
            ({"num_channels": 4}, "num_channels 4, where 3 is expected"),
            ({"patch_size": 0}, "patch_size 0, where greater than"),
            ({"image_size": [32, 10**6]}, "image_size"),
            ({"hidden_act": "eval"}, "hidden_act 'eval', where 'gelu'"),
            ({"layer_norm_eps": -1.0}, "layer_norm_eps -1.0, where greater than 0 is expected"),
            ({"attention_dropout": 2}, "attention_dropout 2, where less than 1 is expected"),
            ({"vision_use_head": "yes"}, "vision_use_head 'yes', where a valid boolean is expected"),
            ({"image_size": 16384, "patch_size": 1}, "got a network of 8,589,.* parameters; expected at most"),
            (
                {"num_hidden_layers": 256, "intermediate_size": 65536},
                "got a network of .* parameters; expected at most",
            ),
            ({"num_attention_heads": 3}, "expected a Hugging Face checkpoint"),
            ({"quantization_config": {"quant_method": "bnb"}}, "got quantized weights"),
            ({"model_type": ["siglip"]}, "got no model_type"),
        ],
        ids=str,
    )
    def test_what_no_network_has_is_refused_by_field(
        self, fields: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        saved("siglip_vision_model", tmp_path)
        edit_config(tmp_path, **fields)
        check_refused(tmp_path, message)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_one_weight_that_is_no_number(self, value: float, kind: str, tmp_path: Path) -> None:
        saved(kind, tmp_path)

        def spoil(state: dict[str, Tensor]) -> None:
            name = next(
                name
                for name in sorted(state)
                if re.search(r"layers?\.1\.", name) and "language" not in name and "text" not in name
            )
            state[name].view(-1)[0] = value

        edit_weights(tmp_path, spoil)
        check_refused(tmp_path, r"tensor .*: got 1 of .* values that are NaN or infinite; expected finite numbers")


def test_the_familys_own_normalization_without_a_preprocessor(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    config = Encoder.from_pretrained(str(tmp_path)).config
    expected = (SIGLIP_MEAN, SIGLIP_MEAN) if "siglip" in kind else (IMAGENET_MEAN, IMAGENET_STD)
    assert (config.image_mean, config.image_std) == expected


def test_its_configuration_builds_the_same_network(kind: str, tmp_path: Path) -> None:
    """What VQRAE saves in its own config.json is enough to hold the weights that were loaded."""
    saved(kind, tmp_path)
    encoder = Encoder.from_pretrained(str(tmp_path))
    config = type(encoder.config).model_validate_json(encoder.config.model_dump_json())
    rebuilt = Encoder(config)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(random_pixels()), encoder.eval()(random_pixels()))


def test_a_half_precision_checkpoint_is_loaded_in_float32(tmp_path: Path) -> None:
    build("siglip_vision_model")[0].bfloat16().save_pretrained(tmp_path)
    encoder = Encoder.from_pretrained(str(tmp_path))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_every_trainable_parameter_gets_a_gradient(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    encoder = Encoder.from_pretrained(str(tmp_path))
    encoder(random_pixels()).square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_only_the_mask_token_never_learns() -> None:
    encoder = Encoder(tiny_config("dinov2").encoder)
    encoder.requires_grad_(False)
    encoder.unfreeze()
    frozen = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
    assert frozen == ["network.embeddings.mask_token"]


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_class_tokens_are_left_out(network: str) -> None:
    assert Encoder(tiny_config(network).encoder)(random_pixels()).shape == (2, 16, WIDTH)


def test_normalization_is_no_weight() -> None:
    assert not {"image_mean", "image_std"} & set(Encoder(tiny_config("dinov2").encoder).state_dict())


def test_a_missing_folder(tmp_path: Path) -> None:
    check_refused(
        tmp_path / "nowhere", "got no such folder; expected a checkpoint's folder, or a name on the hub such as"
    )
    for path in ("./nowhere", "a/b/c", "../x"):
        check_refused(path, "got no such folder; expected a checkpoint's folder, or a name on the hub")


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    check_refused(tmp_path, r"got no config\.json; expected a Hugging Face checkpoint")


def test_a_hub_name_that_cannot_be_reached() -> None:
    check_refused("google/siglip2-so400m-patch16-256", "got no such folder on this machine, and of the hub: ")


def test_another_model_type(tmp_path: Path) -> None:
    transformers.BertConfig(hidden_size=16, num_hidden_layers=1).save_pretrained(tmp_path)
    check_refused(tmp_path, "got a bert model; expected one of siglip_vision_model, dinov2, internvl_vision")


def test_an_unknown_model_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of-tomorrow"}')
    check_refused(tmp_path, "of-tomorrow")


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    saved("siglip_vision_model", tmp_path)
    (tmp_path / "config.json").write_text("{")
    check_refused(tmp_path, "expected a readable config.json")


@pytest.mark.parametrize("text", ["[]", "3"])
def test_a_config_that_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    check_refused(tmp_path, r"got a JSON (list|int); expected a readable config\.json")


NAFLEX = {"model_type": "siglip2", "vision_config": {"model_type": "siglip2_vision_model", "num_patches": 256}}
REMOTE_CODE = {"AutoConfig": "configuration_intern_vit.InternVisionConfig"}
SIGLIP2, INTERNVL = "google/siglip2-so400m-patch16-256", "OpenGVLab/InternVL3-1B-hf"


@pytest.mark.parametrize(
    ("config", "instead"),
    [
        (NAFLEX, SIGLIP2),
        (NAFLEX["vision_config"], SIGLIP2),
        ({"model_type": "intern_vit_6b", "auto_map": REMOTE_CODE}, INTERNVL),
        ({"model_type": "internvl_chat", "auto_map": REMOTE_CODE}, INTERNVL),
        ({"model_type": "dinov2_with_registers", "num_register_tokens": 4}, "facebook/dinov2-base"),
    ],
)
def test_a_near_miss_says_what_to_use_instead(config: dict[str, Any], instead: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    kind = config["model_type"]
    check_refused(tmp_path, f"got a {kind} model; expected one of .*; use .*, such as {instead}")


def test_a_repositorys_own_code_is_neither_run_nor_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of_tomorrow.py").write_text("raise SystemExit('run')")
    config = {"model_type": "of-tomorrow", "auto_map": {"AutoConfig": "of_tomorrow.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_refused(tmp_path, "got a of-tomorrow model; expected one of")
    assert "y/N" not in capsys.readouterr().out


def test_missing_weights(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    names = sorted(load_file(tmp_path / "model.safetensors"))
    vision = [name for name in names if "text" not in name and "language" not in name]
    name = next(name for name in vision if re.search(r"layers?\.0\.", name))
    edit_weights(tmp_path, lambda state: state.pop(name))
    check_refused(tmp_path, r"got no weights for .*layers?\.0\..*; expected all weights")


def test_missing_text_weights_do_not_matter(tmp_path: Path) -> None:
    saved("siglip", tmp_path)
    edit_weights(tmp_path, lambda state: [state.pop(name) for name in list(state) if name.startswith("text_model")])
    Encoder.from_pretrained(str(tmp_path))


def test_no_weights_file(tmp_path: Path) -> None:
    saved("dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    check_refused(tmp_path, "model.safetensors")


def test_truncated_weights(tmp_path: Path) -> None:
    saved("dinov2", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    check_refused(tmp_path, "a file may be cut: download it again")


def test_weights_of_another_shape(tmp_path: Path) -> None:
    saved("siglip_vision_model", tmp_path)
    edit_config(tmp_path, intermediate_size=48)
    check_refused(tmp_path, r"tensor .*mlp.fc1.*: got shape \[64.*\]; expected shape \[48.*\]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "got a JSON list; expected a readable preprocessor_config.json"),
        ("{", "expected a readable preprocessor_config.json"),
        ('{"image_mean": [0.5], "image_std": [0.5]}', r"field image_mean.*: got \[0\.5\]; expected"),
        ('{"image_std": [0.5, 0, 0.5]}', r"field image_std.*: got \[0\.5, 0, 0\.5\]; expected"),
        ('{"image_std": 0}', r"field image_std.*: got 0; expected"),
        ('{"image_mean": NaN}', r"got invalid JSON \(NaN is not a JSON number\)"),
        ('{"do_normalize": "no"}', r"field do_normalize: got 'no'; expected a valid boolean"),
        ('{"rescale_factor": -1}', r"field rescale_factor: got -1; expected greater than or equal to"),
        ('{"image_mean": 1, "image_mean": 2}', r"got invalid JSON \('image_mean' is there twice\)"),
    ],
)
def test_a_bad_preprocessor_config(text: str, message: str, tmp_path: Path) -> None:
    saved("siglip_vision_model", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(text)
    check_refused(tmp_path, message)


def check_refused(source: Path | str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Encoder.from_pretrained(str(source))
    text = str(caught.value)
    assert text.startswith(str(source))
    assert "\n" not in text
    assert len(text) < 500
