"""Verdicts on organs: each reason by a case that has it and one that just has not."""

import json
from dataclasses import asdict, replace

import pytest

from viscera.core.config import OrganLimits, QualityConfig, from_dict
from viscera.core.errors import ConfigError
from viscera.quality.rules import OrganSignals, QcStatus, Reason, assess, quality_note

CONFIG = QualityConfig()


def organ(name, volume_ml, centre_xyz_mm, **others):
    parts = (0.5 * volume_ml, 0.5 * volume_ml) if name == "kidney" else (volume_ml,)
    signals = {"parts_ml": parts, "expected_dsc": 0.95, "entropy_bits": 0.2, "disagreement": 0.1} | others
    return OrganSignals(organ=name, volume_ml=volume_ml, centre_xyz_mm=centre_xyz_mm, **signals)


# A plausible adult: x to the left, y to the back, z to the head.
HEALTHY = {
    "liver": organ("liver", 1500.0, (-70.0, -25.0, 160.0)),
    "kidney": organ("kidney", 310.0, (0.0, 30.0, 90.0)),
    "spleen": organ("spleen", 200.0, (100.0, 25.0, 165.0)),
    "pancreas": organ("pancreas", 75.0, (20.0, -20.0, 120.0)),
}
NOTHING = {name: OrganSignals(organ=name, volume_ml=0.0) for name in HEALTHY}


def judged(config=CONFIG, **changes):
    """The verdicts by organ for the healthy scan with organs replaced; changes: name=fields, or name=None if absent."""
    signals = dict(HEALTHY)
    for name, fields in changes.items():
        signals[name] = NOTHING[name] if fields is None else replace(HEALTHY[name], **fields)
    return {quality.organ: quality for quality in assess(tuple(signals.values()), config)}


def reasons(organ, config=CONFIG, **changes):
    return judged(config, **changes)[organ].reasons


def test_a_plausible_scan_is_ok():
    found = judged()
    assert list(found) == list(HEALTHY)
    assert {quality.status for quality in found.values()} == {QcStatus.OK}
    assert {(quality.reasons, quality.sentences) for quality in found.values()} == {((), ())}
    assert quality_note(tuple(found.values())) is None


def test_a_reason_makes_a_check_with_a_sentence_and_the_signals():
    found = judged(spleen={"volume_ml": 30.0, "parts_ml": (30.0,)})
    spleen = found["spleen"]
    assert (spleen.verdict, spleen.reasons) == ("check", ("too_small",))
    assert spleen.sentences == ("Its volume of 30 ml is less than an adult's, at least 50 ml.",)
    assert spleen.signals.volume_ml == 30.0
    assert found["liver"].verdict == "ok"


# What the networks say


@pytest.mark.parametrize(
    ("field", "good", "bad", "reason"),
    [
        ("disagreement", 0.5, 0.51, "disagreement"),
        ("expected_dsc", 0.7, 0.69, "uncertain"),
        ("entropy_bits", 0.6, 0.61, "uncertain"),
    ],
)
def test_what_the_networks_say_of_themselves(field, good, bad, reason):
    assert reasons("pancreas", pancreas={field: good}) == ()
    assert reasons("pancreas", pancreas={field: bad}) == (reason,)
    assert reasons("pancreas", pancreas={field: None}) == ()


def test_two_signs_of_one_reason_are_one_reason_and_two_sentences():
    pancreas = judged(pancreas={"expected_dsc": 0.5, "entropy_bits": 0.9})["pancreas"]
    assert pancreas.reasons == ("uncertain",)
    assert pancreas.sentences == (
        "Expected Dice is 0.50, below the limit of 0.70.",
        "Mean entropy of its probabilities is 0.90 bits, above the limit of 0.60.",
    )


# Volumes


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("liver", 600, 3000), ("kidney", 160, 700), ("spleen", 50, 800), ("pancreas", 20, 180)],
)
def test_volumes_no_adult_has(name, low, high):
    def with_volume(volume):
        parts = (volume / 2, volume / 2) if name == "kidney" else (volume,)
        return reasons(name, **{name: {"volume_ml": volume, "parts_ml": parts}})

    assert with_volume(low) == with_volume(high) == ()
    assert with_volume(low - 1) == ("too_small",)
    assert with_volume(high + 1) == ("too_large",)


def test_an_organ_the_border_cuts_is_not_too_small_but_at_the_border():
    cut = {"volume_ml": 300.0, "parts_ml": (300.0,), "border_faces": ("superior", "right")}
    liver = judged(liver=cut)["liver"]
    assert liver.reasons == ("at_border",)
    assert liver.sentences == ("It touches the superior and right border of the scan, which may cut it.",)
    assert reasons("liver", liver={**cut, "volume_ml": 3100.0, "parts_ml": (3100.0,)}) == ("too_large", "at_border")


def test_the_borders_are_listed_in_words():
    faces = ("superior", "anterior", "right")
    (sentence,) = judged(liver={"border_faces": faces})["liver"].sentences
    assert sentence == "It touches the superior, anterior and right border of the scan, which may cut it."


# Places


@pytest.mark.parametrize(
    ("changed", "centre", "sentence", "other", "other_sentence"),
    [
        ("liver", (131.0, -25.0, 160.0), "It lies left of the spleen.", "spleen", "It lies right of the liver."),
        ("kidney", (0.0, 30.0, 196.0), "It lies above the spleen.", "spleen", "It lies below the kidney."),
        ("liver", (-70.0, -25.0, 59.0), "It lies below the kidney.", "kidney", "It lies above the liver."),
        ("pancreas", (20.0, 61.0, 120.0), "It lies behind the kidney.", "kidney", "It lies in front of the pancreas."),
    ],
)
def test_organs_out_of_order(changed, centre, sentence, other, other_sentence):
    found = judged(**{changed: {"centre_xyz_mm": centre}})
    assert sentence in found[changed].sentences
    assert other_sentence in found[other].sentences
    assert found[changed].reasons == found[other].reasons == ("misplaced",)


@pytest.mark.parametrize(
    ("changed", "centre"),
    [
        ("liver", (130.0, -25.0, 160.0)),
        ("kidney", (0.0, 30.0, 190.0)),
        ("liver", (-70.0, -25.0, 60.0)),
        ("pancreas", (20.0, 60.0, 120.0)),
    ],
)
def test_a_slack_is_left_to_the_order(changed, centre):
    assert reasons(changed, **{changed: {"centre_xyz_mm": centre}}) == ()
    strict = replace(CONFIG, order_slack_mm=0.0)
    assert reasons(changed, strict, **{changed: {"centre_xyz_mm": centre}}) == ("misplaced",)


@pytest.mark.parametrize(("face", "excused"), [("superior", True), ("inferior", True), ("left", False)])
def test_the_centre_of_a_cut_organ_says_nothing_along_the_cut(face, excused):
    low = {"centre_xyz_mm": (100.0, 25.0, 40.0), "border_faces": (face,)}
    assert ("misplaced" in reasons("kidney", spleen=low)) is not excused
    assert ("misplaced" in reasons("spleen", spleen=low)) is not excused


def test_an_organ_far_from_the_others():
    # The others' centres have the mean (40, 35 / 3, 125).
    near, far = ((40.0 - distance, 35 / 3, 125.0) for distance in (249.0, 251.0))
    assert reasons("liver", liver={"centre_xyz_mm": near}) == ()
    liver = judged(liver={"centre_xyz_mm": far})["liver"]
    assert liver.reasons == ("misplaced",)
    assert liver.sentences == ("It lies 251 mm from the middle of the other organs.",)


def test_an_organ_alone_is_in_no_wrong_place():
    assert reasons("liver", kidney=None, spleen=None, pancreas=None) == ()


# Parts


def test_pieces_beside_the_largest_part():
    assert reasons("liver", liver={"parts_ml": (1430.0, 70.0)}) == ()
    liver = judged(liver={"parts_ml": (1400.0, 60.0, 40.0)})["liver"]
    assert liver.reasons == ("fragmented",)
    assert liver.sentences == ("7% of it lies outside its largest component, more than 5%.",)


def test_two_kidneys_are_two_parts():
    assert reasons("kidney", kidney={"parts_ml": (170.0, 135.0, 5.0)}) == ()
    assert reasons("kidney", kidney={"parts_ml": (140.0, 130.0, 40.0)}) == ("fragmented",)


def test_more_parts_than_are_kept_still_count():
    assert reasons("liver", liver={"parts_ml": (1000.0, 10.0, 10.0, 10.0)}) == ("fragmented",)


def test_one_kidney_is_not_two():
    kidney = judged(kidney={"parts_ml": (300.0, 10.0)})["kidney"]
    assert kidney.reasons == ("incomplete",)
    assert kidney.sentences == ("Only 1 of its 2 components could be found.",)
    assert reasons("kidney", kidney={"parts_ml": (280.0, 30.0)}) == ()


def test_a_kidney_may_be_beyond_the_border():
    assert reasons("kidney", kidney={"parts_ml": (310.0,), "border_faces": ("right",)}) == ("at_border",)


# Absent organs


def test_an_absent_organ_among_whole_ones_was_expected():
    spleen = judged(spleen=None)["spleen"]
    assert (spleen.verdict, spleen.reasons) == ("absent", ("missing",))


@pytest.mark.parametrize(
    ("absent", "cut", "face", "reason"),
    [
        ("kidney", "liver", "inferior", "out_of_scan"),
        ("pancreas", "spleen", "inferior", "out_of_scan"),
        ("kidney", "pancreas", "inferior", "out_of_scan"),
        ("spleen", "kidney", "superior", "out_of_scan"),
        ("liver", "pancreas", "superior", "out_of_scan"),
        ("spleen", "liver", "left", "out_of_scan"),
        ("liver", "spleen", "right", "out_of_scan"),
        ("kidney", "liver", "superior", "not_found"),
        ("spleen", "liver", "superior", "not_found"),
        ("spleen", "liver", "inferior", "not_found"),
        ("liver", "spleen", "left", "not_found"),
        ("kidney", "liver", "right", "not_found"),
    ],
)
def test_whether_the_scan_reaches_an_absent_organ(absent, cut, face, reason):
    found = judged(**{absent: None, cut: {"border_faces": (face,)}})[absent]
    assert (found.verdict, found.reasons) == ("absent", (reason,))


def test_the_organ_in_which_the_scan_ends_is_named():
    kidney = judged(kidney=None, liver={"border_faces": ("inferior",)})["kidney"]
    assert kidney.sentences == ("The scan ends in the liver and seems not to reach it.",)


def test_of_an_empty_label_map_nothing_is_known():
    found = assess(tuple(NOTHING.values()), CONFIG)
    assert {(quality.status, quality.reasons) for quality in found} == {("absent", ("not_found",))}
    assert quality_note(found) is None


# Other organs, other limits


def test_other_organs_have_no_limit_of_volume_but_all_others():
    assert assess([OrganSignals(organ="gallbladder", volume_ml=3000.0, parts_ml=(3000.0,))], CONFIG)[0].reasons == ()
    broken = OrganSignals(organ="gallbladder", volume_ml=30.0, parts_ml=(20.0, 10.0), entropy_bits=0.9)
    assert assess([broken], CONFIG)[0].reasons == ("uncertain", "fragmented")


def test_limits_can_be_put_anew_to_stored_signals():
    signals = [replace(HEALTHY["liver"], border_faces=("superior",)), HEALTHY["kidney"], NOTHING["spleen"]]
    stored = json.loads(json.dumps([asdict(one) for one in signals]))
    read = [from_dict(OrganSignals, values) for values in stored]
    assert read == signals
    assert assess(read, CONFIG) == assess(signals, CONFIG)
    strict = replace(CONFIG, liver=replace(CONFIG.liver, expected_dsc_min=0.96))
    assert assess(read, strict)[0].reasons == ("uncertain", "at_border")


def test_the_limits_of_an_organ_are_given_whole_or_not_at_all():
    assert from_dict(QualityConfig, {"order_slack_mm": 10}) == replace(CONFIG, order_slack_mm=10.0)
    with pytest.raises(ConfigError, match="every field without a default"):
        from_dict(QualityConfig, {"liver": {"volume_min_ml": 500}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volume_min_ml", -1.0),
        ("volume_max_ml", 600.0),
        ("parts", 0),
        ("fragments_max", 1.1),
        ("disagreement_max", -0.1),
        ("entropy_max_bits", 2.0),
        ("expected_dsc_min", 1.5),
    ],
)
def test_limits_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        OrganLimits(**{**asdict(CONFIG.liver), field: value})


@pytest.mark.parametrize("field", ["order_slack_mm", "distance_max_mm", "part_share_min"])
def test_settings_out_of_range_are_refused(field):
    with pytest.raises(ConfigError, match=field):
        replace(CONFIG, **{field: -1.0})


# The note


def test_the_note_gives_each_organ_its_most_telling_reason():
    found = judged(
        liver={"border_faces": ("superior",)},
        spleen={"volume_ml": 30.0, "parts_ml": (30.0,), "disagreement": 0.9},
        pancreas={"expected_dsc": 0.1, "parts_ml": (40.0, 35.0)},
    )
    assert quality_note(tuple(found.values())) == "Check spleen (too small), pancreas (in pieces)."


def test_an_expected_organ_that_was_not_found_is_in_the_note():
    assert quality_note(tuple(judged(spleen=None).values())) == "Check spleen (expected but not found)."


def test_organs_that_only_touch_the_border_need_no_note():
    found = judged(liver={"border_faces": ("superior",)}, kidney={"border_faces": ("inferior",)})
    assert quality_note(tuple(found.values())) is None


def test_reasons_have_stable_names():
    assert [reason.value for reason in Reason] == [
        "disagreement",
        "uncertain",
        "too_small",
        "too_large",
        "misplaced",
        "at_border",
        "incomplete",
        "fragmented",
        "out_of_scan",
        "missing",
        "not_found",
    ]
