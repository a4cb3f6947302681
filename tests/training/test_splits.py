"""Folds drawn, given and kept."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from viscera.core.errors import ConfigError, ReadError
from viscera.training import sampler as order
from viscera.training import splits as splits_module
from viscera.training import step as trainer
from viscera.training.splits import Fold, Splits, kept_splits, read_splits, seeded_splits

NAMES = [f"case{number:03d}" for number in range(11)]


def test_every_case_is_held_out_once_in_folds_of_like_size():
    splits = seeded_splits(NAMES, 4, seed=1)
    assert sorted(splits.held_out) == NAMES
    assert sorted(len(fold.val) for fold in splits.folds) == [2, 3, 3, 3]
    for fold in splits.folds:
        assert sorted((*fold.train, *fold.val)) == NAMES


def test_the_paper_has_folds_of_90_and_91_cases():
    splits = seeded_splits([str(number) for number in range(361)], 4, seed=0)
    assert sorted(len(fold.val) for fold in splits.folds) == [90, 90, 90, 91]


def test_the_seed_decides_and_the_order_of_names_does_not():
    splits = seeded_splits(NAMES, 4, seed=1)
    assert seeded_splits(NAMES[::-1], 4, seed=1) == splits
    assert seeded_splits(NAMES, 4, seed=2).folds != splits.folds


@pytest.mark.parametrize(("count", "folds"), [(11, 1), (3, 4)])
def test_too_few_folds_or_cases_are_refused(count, folds):
    with pytest.raises(ConfigError, match=f"drawing {folds} folds"):
        seeded_splits(NAMES[:count], folds, seed=0)


def test_written_folds_come_back(tmp_path):
    splits = seeded_splits(NAMES, 4, seed=1)
    kept_splits(tmp_path, splits)
    assert read_splits(tmp_path / "splits.json", NAMES) == splits
    assert kept_splits(tmp_path, splits) == splits


def test_folds_and_the_order_of_training_have_streams_of_their_own():
    # numpy fills a seed up with zeros, so that [1, 4] is [1, 4, 0], the first round of `order.CaseSampler`.
    streams = (splits_module._STREAM, order._ORDER_STREAM, order._SAMPLE_STREAM, trainer._DROPOUT_STREAM)
    assert len({*streams}) == len(streams)
    drawn = np.random.default_rng([1, order._ORDER_STREAM, 0]).permutation(len(NAMES))
    shared = {NAMES[place] for place in drawn[::4]}
    assert {*seeded_splits(NAMES, 4, seed=1).folds[0].val} != shared


def test_a_run_goes_on_with_the_folds_an_earlier_version_drew_with_its_seed(tmp_path):
    wanted = seeded_splits(NAMES, 4, seed=1)
    earlier = Splits(folds=seeded_splits(NAMES, 4, seed=9).folds, seed=1)
    kept_splits(tmp_path, earlier)
    assert kept_splits(tmp_path, wanted) == earlier
    with pytest.raises(ConfigError, match="other folds"):
        kept_splits(tmp_path, seeded_splits(NAMES, 3, seed=1))
    with pytest.raises(ConfigError, match="other folds"):
        kept_splits(tmp_path, Splits(folds=wanted.folds))  # given ones


def test_going_on_with_other_folds_is_refused(tmp_path):
    kept_splits(tmp_path, seeded_splits(NAMES, 4, seed=1))
    with pytest.raises(ConfigError, match="other folds"):
        kept_splits(tmp_path, seeded_splits(NAMES, 4, seed=2))


def test_going_on_with_more_cases_is_refused(tmp_path):
    kept_splits(tmp_path, seeded_splits(NAMES[:-1], 4, seed=1))
    with pytest.raises(ConfigError, match="other folds"):
        kept_splits(tmp_path, seeded_splits(NAMES, 4, seed=1))


def test_going_on_with_fewer_cases_is_refused(tmp_path):
    kept_splits(tmp_path, seeded_splits(NAMES, 4, seed=1))
    with pytest.raises(ConfigError):
        kept_splits(tmp_path, seeded_splits(NAMES[:-1], 4, seed=1))


def test_a_bare_list_of_folds_is_read(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": NAMES[:2], "val": NAMES[2:3]}, {"train": NAMES[1:3], "val": NAMES[:1]}]))
    first, second = (tuple(NAMES[:2]), tuple(NAMES[2:3])), (tuple(NAMES[1:3]), tuple(NAMES[:1]))
    assert read_splits(path, NAMES) == Splits(folds=tuple(Fold(train=t, val=v) for t, v in (first, second)))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"train": ["case001", "other"], "val": ["case002"]}], "other, that is not prepared"),
        ([{"train": ["case001"], "val": ["case001"]}], "case001, that is trained on and held out"),
        ([{"train": ["case001"], "val": ["case002"]}] * 2, "in fold 2 case002, that is held out twice"),
        ([{"train": ["case001", "case001"], "val": ["case002"]}], "case001, that is listed twice"),
    ],
)
def test_unsound_folds_are_refused(tmp_path, folds, message):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(ConfigError, match=message):
        read_splits(path, NAMES)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '[{"train": ["a"]}]', '[{"train": [], "val": ["a"]}]', "[[]]"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(ReadError, match="reading the splits"):
        read_splits(path, NAMES)
