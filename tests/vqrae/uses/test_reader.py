from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vqrae.downstream.language import LanguageSize, new_language, open_language, write_language
from vqrae.downstream.reader import Adapter, Reader, ReaderFields
from vqrae.runtimes.errors import CheckpointError, UsageError

FIELDS = ReaderFields(tokens=16, feature_width=32)
QUESTION = "what shape is it ?"


def features(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FIELDS.tokens, FIELDS.feature_width, generator=torch.Generator().manual_seed(seed))


def small_reader() -> Reader:
    torch.manual_seed(0)
    return Reader(FIELDS, new_language(LanguageSize(width=32, depth=2, heads=4), 0)).eval()


def test_the_adapter_is_two_layers_and_gelu() -> None:
    adapter = Adapter(32, 48)
    assert [type(part) for part in adapter] == [torch.nn.Linear, torch.nn.GELU, torch.nn.Linear]
    assert adapter(features()).shape == (2, 16, 48)


def test_only_what_the_assistant_says_is_learned() -> None:
    """The loss is the mean over the answer's tokens of what the model says of them, one after the other."""
    reader = small_reader()
    ids, labels = reader._tokens([(QUESTION, "red"), ("where is the large one ?", "top left")])
    learned = [label for label in labels if label >= 0]
    assert reader.words.decode(learned) == "red <end> top left <end>"
    with torch.no_grad():
        loss = reader(features(1), [[(QUESTION, "red"), ("where is the large one ?", "top left")]])
        text = reader.language.get_input_embeddings()(torch.tensor([ids]))
        logits = reader.language(inputs_embeds=torch.cat([reader.adapter(features(1)), text], 1)).logits[0]
    places = [place for place, label in enumerate(labels) if label >= 0]
    before = torch.tensor([FIELDS.tokens + place - 1 for place in places])
    expected = torch.nn.functional.cross_entropy(logits[before], torch.tensor(learned))
    torch.testing.assert_close(loss, expected)


def test_answers_do_not_depend_on_their_neighbours(reader: Reader) -> None:
    asked = [QUESTION, "is it a red cross ?", "where is the large one ?"]
    together = reader.answers(features(3), asked)
    alone = [reader.answers(features(3)[row : row + 1], [question])[0] for row, question in enumerate(asked)]
    assert together == alone


def test_a_reader_is_read_back(reader: Reader, tmp_path: Path) -> None:
    reader.save(tmp_path / "reader")
    again = Reader.open(tmp_path / "reader")
    assert again.answers(features(), [QUESTION] * 2) == reader.answers(features(), [QUESTION] * 2)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), reader.parameters(), strict=True))


def test_a_language_model_of_another_width_is_refused(reader_folder: Path) -> None:
    language = new_language(LanguageSize(width=48, depth=1, heads=4), 0)
    message = "adapter's output: got width 32; expected 48, the language model's width; train an adapter"
    with pytest.raises(UsageError, match=message):
        Reader.open(reader_folder, language)


def test_an_adapter_of_other_features_is_refused() -> None:
    language = new_language(LanguageSize(width=32, depth=1, heads=4), 0)
    with pytest.raises(UsageError, match="adapter's input: got width 24; expected 32, the features' width"):
        Reader(FIELDS, language, Adapter(24, 32))


def test_features_of_another_tokenizer_are_refused(reader: Reader) -> None:
    with pytest.raises(UsageError, match="features: got 9 tokens 32 wide; expected 16 tokens 32 wide"):
        reader.answers(torch.zeros(1, 9, 32), [QUESTION])


def test_words_outside_the_world_are_refused(reader: Reader) -> None:
    with pytest.raises(UsageError, match=re.escape("outside the model's vocabulary: 'shpe'")) as caught:
        reader.answers(features(1), ["what shpe is it ?"])
    assert "did you mean shape?" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_adapter_is_refused(reader: Reader, tmp_path: Path) -> None:
    reader.save(tmp_path / "reader")
    (tmp_path / "reader" / "adapter.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="expected an adapter's weights"):
        Reader.open(tmp_path / "reader")


def test_another_kind_of_language_model_is_refused(tmp_path: Path, language_folder: Path) -> None:
    language = open_language(str(language_folder))
    write_language(language, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"qwen3"', '"llama"'))
    with pytest.raises(CheckpointError, match="got a llama model; expected a qwen3 one"):
        open_language(str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="nowhere: got no such folder; expected a checkpoint's folder"):
        open_language(str(tmp_path / "nowhere"))
