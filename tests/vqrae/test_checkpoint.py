from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import NETWORKS, random_images, tiny_config, tiny_model
from torch import Tensor

from vqrae import checkpoint as module
from vqrae.checkpoint import CONFIG_FILE, WEIGHTS_FILE, from_pretrained, open_checkpoint, save_pretrained
from vqrae.runtimes.errors import CheckpointError, StorageError, UsageError
from vqrae.training.config import recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    save_pretrained(tiny_model(), path)
    return path


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    edit(state)
    save_file(state, folder / WEIGHTS_FILE)


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / CONFIG_FILE
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def check_refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        from_pretrained(folder)
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert "\n" not in text


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_round_trip_is_bit_identical(network: str, tmp_path: Path) -> None:
    model = tiny_model(network)
    save_pretrained(model, tmp_path / "checkpoint")
    loaded = from_pretrained(tmp_path / "checkpoint")
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    images = random_images()
    assert torch.equal(loaded.encode_images(images)[0], model.encode_images(images)[0])


def test_the_same_model_is_written_as_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save_pretrained(tiny_model(), tmp_path / "again")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_two_files_and_nothing_that_executes(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize("name", ["../../escaped", "/abs", "", ".", "a\0b", "\x1b[2J", "CON", "n" * 300])
def test_a_name_that_would_leave_the_output_is_refused_by_its_field(folder: Path, name: str) -> None:
    edit_config(folder, lambda config: config.update(name=name))
    check_refused(folder, "field name: got .*; a name becomes that of files; expected a valid value")
    with pytest.raises(UsageError, match=r"setting model\.name"):
        recipe("tiny").changed({"model.name": json.dumps(name)})


def test_the_codebook_is_saved(folder: Path) -> None:
    assert "quantizer.codebook" in load_file(folder / WEIGHTS_FILE)


def test_a_missing_key(folder: Path) -> None:
    edit_weights(folder, lambda state: state.pop("quantizer.transform.bias"))
    check_refused(folder, r"got no tensor quantizer\.transform\.bias; expected exactly the tensors of config\.json")


def test_several_missing_keys_are_counted(folder: Path) -> None:
    edit_weights(folder, lambda state: [state.pop(f"in_projection.{name}") for name in ("weight", "bias")])
    check_refused(folder, r"got no tensor in_projection\.bias and 1 more;")


def test_an_unknown_key(folder: Path) -> None:
    edit_weights(folder, lambda state: state.update(discriminator=torch.zeros(3)))
    check_refused(folder, "got an unknown tensor discriminator; expected exactly the tensors of config.json")


def test_a_wrong_shape(folder: Path) -> None:
    edit_weights(folder, lambda state: state.update({"out_projection.bias": torch.zeros(5)}))
    check_refused(folder, r"tensor out_projection\.bias: got shape \[5\]; expected shape \[32\]")


def test_a_scalar_where_a_vector_belongs_is_not_broadcast(folder: Path) -> None:
    edit_weights(folder, lambda state: state.update({"out_projection.bias": torch.zeros(())}))
    check_refused(folder, r"got shape \[\]; expected shape \[32\]")


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_another_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Checkpoints are float32: half the bits would be another tokenizer."""
    edit_weights(folder, lambda state: state.update({"out_projection.bias": torch.zeros(32, dtype=dtype)}))
    check_refused(folder, rf"tensor out_projection\.bias: got {dtype}; expected torch\.float32")


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_weights_file(folder: Path, length: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    check_refused(folder, "model.safetensors: got .*; expected a whole safetensors file")


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    check_refused(folder, rf"{name}: got .*No such file")


def test_another_models_config(folder: Path) -> None:
    edit_config(folder, lambda values: values.update(model_type="siglip"))
    check_refused(folder, "got another model's configuration; expected model_type 'vqrae'")


@pytest.mark.parametrize("text", ["", "{", "[]", '"vqrae"', "\xff"])
def test_a_config_that_is_no_object(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    check_refused(folder, f"{CONFIG_FILE}: got .*; expected")


def test_an_unknown_field(folder: Path) -> None:
    edit_config(folder, lambda values: values["quantizer"].update(dropout=0.1))
    check_refused(folder, r"field quantizer\.dropout: got an unknown field")


def test_a_missing_field(folder: Path) -> None:
    edit_config(folder, lambda values: values["decoder"].pop("depth"))
    check_refused(folder, r"field decoder\.depth: got no such field")


def change(path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """An edit of one field, by its dotted path."""

    def edit(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            values = values[name]
        values[last] = value

    return edit


class TestHostileConfigurations:
    """Refused in one line by the field that is wrong, before anything is built of it (fault 46)."""

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("image_size", 10**9),
            ("image_size", 2**14),
            ("image_size", True),
            ("name", "a" * 300),
            ("encoder", None),
            ("encoder.family", "bert"),
            ("encoder.family", {}),
            ("encoder.network", []),
            ("encoder.network.hidden_size", "wide"),
            ("encoder.network.hidden_size", 10**9),
            ("encoder.network.hidden_size", -1),
            ("encoder.network.num_hidden_layers", 10**7),
            ("encoder.network.num_hidden_layers", 250),
            ("encoder.network.num_attention_heads", 0),
            ("encoder.network.num_attention_heads", 5),
            ("encoder.network.patch_size", 0),
            ("encoder.network.patch_size", [4, 8]),
            ("encoder.network.image_size", {"height": 32}),
            ("encoder.network.hidden_act", "__import__"),
            ("encoder.network.layer_norm_eps", 0),
            ("encoder.network.attention_dropout", 7),
            ("encoder.network._attn_implementation", "kernels-community/flash-attn"),
            ("encoder.network.attn_implementation", "flash_attention_2"),
            ("encoder.network.auto_map", {"AutoModel": "x.Y"}),
            ("encoder.network.quantization_config", {"quant_method": "bnb"}),
            ("encoder.network.something", 1),
            ("encoder.image_std", [0.5, 0.5, 0]),
            ("encoder.image_mean", [0.5, 0.5]),
            ("encoder.image_mean", "grey"),
            ("quantizer.codebook_size", 10**12),
            ("quantizer.codebook_size", 2**24),
            ("quantizer.code_width", 0),
            ("quantizer.beta", -1),
            ("decoder.width", 10**9),
            ("decoder.depth", 10**9),
            ("decoder.depth", 250),
            ("decoder.heads", 0),
            ("decoder.mlp_width", 10**9),
            ("decoder.patch_size", 0),
            ("decoder.norm_eps", 0),
        ],
        ids=str,
    )
    def test_a_field_that_no_tokenizer_has(self, path: str, value: Any, folder: Path) -> None:
        edit_config(folder, change(path, value))
        check_refused(folder, "got .*; expected ")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"model_type": "vqrae", "name": 1e400}',
            '{"model_type": "vqrae", "name": NaN}',
            '{"model_type": "vqrae", "model_type": "vqrae"}',
            '{"model_type": "vqrae", "name": ' + "1" * 10_000 + "}",
            "\ud800",
            "null",
        ],
        ids=lambda text: repr(text)[:30],
    )
    def test_a_text_that_is_no_configuration(self, text: str, folder: Path) -> None:
        (folder / CONFIG_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
        check_refused(folder, r"config\.json: got .*; expected ")

    def test_bytes_that_are_no_text(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_bytes(b"\xff\xfe{}")
        check_refused(folder, r"config\.json: got .*; expected ")

    def test_a_file_without_end(self, folder: Path) -> None:
        with (folder / CONFIG_FILE).open("ab") as file:
            file.truncate(2**33)
        check_refused(folder, r"config\.json: got more than \d+ bytes; expected ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_weight_that_is_no_number(value: float, folder: Path) -> None:
    edit_weights(folder, lambda state: state["in_projection.weight"].view(-1)[:2].fill_(value))
    check_refused(folder, r"tensor in_projection\.weight: got 2 of .* values that are NaN or infinite; expected finite")


def test_a_half_precision_model_is_saved_in_float32(tmp_path: Path) -> None:
    save_pretrained(tiny_model().bfloat16(), tmp_path / "checkpoint")
    assert {tensor.dtype for tensor in load_file(tmp_path / "checkpoint" / WEIGHTS_FILE).values()} == {torch.float32}
    from_pretrained(tmp_path / "checkpoint")


def test_an_existing_folder_needs_overwrite(folder: Path) -> None:
    before = (folder / WEIGHTS_FILE).read_bytes()
    with pytest.raises(UsageError, match=r"got a folder that exists; .*--overwrite"):
        save_pretrained(tiny_model(seed=1), folder)
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    save_pretrained(tiny_model(seed=1), folder, overwrite=True)
    assert (folder / WEIGHTS_FILE).read_bytes() != before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_tensors", stop)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        save_pretrained(tiny_model(), tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_open_checkpoint_names_the_files(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    assert opened.identity.name == "test-siglip"
    assert opened.identity.source == str(folder)
    assert not opened.identity.random_weights
    assert opened.identity.weights_sha256 == module.sha256_file(folder / WEIGHTS_FILE)
    assert opened.identity.config_sha256 == module.sha256_file(folder / CONFIG_FILE)


def test_open_checkpoint_of_a_preset_is_seeded_and_says_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PRESETS, "tiny", tiny_config)  # smaller, hence faster
    torch.manual_seed(123)
    first = open_checkpoint("tiny")
    torch.manual_seed(456)
    second = open_checkpoint("tiny")
    assert first.identity == second.identity
    assert first.identity.random_weights
    assert (first.identity.name, first.identity.source) == ("test-siglip", "tiny")
    assert not first.model.training


def test_the_digest_covers_every_tensor() -> None:
    model = tiny_model()
    before = module._digest(model)
    model.quantizer.codebook[3, 3] += 1
    assert module._digest(model) != before


def test_open_checkpoint_of_nothing() -> None:
    with pytest.raises(CheckpointError, match=r"^nowhere: got no such folder or preset; .* one of tiny, base"):
        open_checkpoint("nowhere")


def test_a_preset_is_not_hidden_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(module.PRESETS, "tiny", tiny_config)
    (tmp_path / "tiny").write_text("a file")
    assert open_checkpoint("tiny").identity.random_weights
