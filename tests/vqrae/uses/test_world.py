from __future__ import annotations

import numpy as np
import pytest

from vqrae.downstream.world import (
    COUNTS,
    NAMES,
    POSITIONS,
    SHOWN_SHAPES,
    TOPICS,
    Split,
    World,
    caption,
    is_held_out,
    labels_of,
    named,
    questions,
    read_caption,
    vocabulary,
)
from vqrae.training.data.scenes import SHAPES

SIZE = 32


def test_a_seed_names_the_scenes() -> None:
    first, again, other = (World(size=SIZE, split="train").batch(6, [seed]) for seed in (1, 1, 2))
    assert (first.images == again.images).all()
    assert not (first.images == other.images).all()
    assert all((first.labels[name] == again.labels[name]).all() for name in NAMES)


def test_rows_are_independent_of_each_other() -> None:
    scenes = World(size=SIZE, split="test")
    whole, part = scenes.batch(6, [3]), scenes.rows(range(2, 5), [3])
    assert (whole.images[2:5] == part.images).all()
    assert scenes.labels(4, [3]) == labels_of(whole)[4]


@pytest.mark.parametrize("split", ["train", "test", "held-out"])
def test_each_pair_is_either_trained_or_held_out(split: Split) -> None:
    labels = [World(size=SIZE, split=split).labels(row, [0]) for row in range(300)]
    assert {is_held_out(one["shape"], one["color"]) for one in labels} == {split == "held-out"}
    assert {name: {one[name] for one in labels} for name in NAMES} == {
        name: set(range(len(classes))) for name, classes in NAMES.items()
    }


def test_any_shows_both_kinds() -> None:
    labels = [World(size=SIZE, split="any").labels(row, [0]) for row in range(100)]
    assert {is_held_out(one["shape"], one["color"]) for one in labels} == {True, False}


def test_one_shape_of_each_color_is_held_out() -> None:
    for color in range(len(NAMES["color"])):
        assert sum(is_held_out(shape, color) for shape in range(len(SHOWN_SHAPES))) == 1


def test_textures_of_tests_are_cut_elsewhere() -> None:
    rng = np.random.default_rng(0)
    for name in NAMES["texture"]:
        trained = [World(size=SIZE, split="train")._texture(rng, name) for _ in range(50)]
        tested = [World(size=SIZE, split="held-out")._texture(rng, name) for _ in range(50)]
        assert max(texture.box[2] for texture in trained) <= min(texture.box[0] for texture in tested) + 1e-9


def test_the_mask_shows_position_and_count() -> None:
    batch = World(size=96, split="any").batch(40, [1])
    for mask, labels in zip(batch.masks, labels_of(batch), strict=True):
        row, column = divmod(labels["position"], 2)
        quarter = mask[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        assert (quarter > 0).sum() > 0.5 * (mask > 0).sum()
        assert set(np.unique(mask)) == {0, 1 + SHAPES.index(named(labels)["shape"])}


def test_a_caption_says_all_and_is_read_back() -> None:
    labels = {
        "shape": SHOWN_SHAPES.index("cross"),
        "color": 0,
        "position": POSITIONS.index("bottom left"),
        "count": COUNTS.index("two"),
        "texture": 0,
    }
    assert caption(labels) == "two red crosses at the bottom left on brick"
    assert read_caption(caption(labels)) == labels
    assert read_caption("one red crosses at the bottom left on brick") is None
    assert read_caption("a red cross") is None
    for row in range(50):
        drawn = World(size=SIZE, split="any").labels(row, [5])
        assert read_caption(caption(drawn)) == drawn


def test_answers_are_right_and_every_word_is_known() -> None:
    words = set(vocabulary())
    agreed = 0
    for row in range(200):
        labels = World(size=SIZE, split="any").labels(row, [6])
        said = named(labels)
        asked = questions(labels, np.random.default_rng(row))
        assert [one.topic for one in asked] == list(TOPICS)
        assert {one.topic: one.answer for one in asked[:-1]} == said
        color, shape = asked[-1].question.removeprefix("is it a ").removesuffix(" ?").split()
        assert asked[-1].answer == ("yes" if (color, shape) == (said["color"], said["shape"]) else "no")
        agreed += asked[-1].answer == "yes"
        spoken = " ".join([caption(labels), *(f"{one.question} {one.answer}" for one in asked)])
        assert set(spoken.split()) <= words
    assert 70 < agreed < 130
