"""Boxes: into the inner form, filtered, and back; albumentations 2.0.8 (MIT) is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms.bboxes import BboxParams, BboxProcessor

FORMATS = ["coco", "pascal_voc", "yolo", "albumentations"]
SHAPE = (60, 100, 3)


def oracle(**arguments: Any) -> Any:
    from albumentations.core.bbox_utils import BboxParams as TheirParams
    from albumentations.core.bbox_utils import BboxProcessor as TheirProcessor

    return TheirProcessor(TheirParams(**arguments))


def through(params: BboxParams, data: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """The data after a pipeline of nothing."""
    processor = BboxProcessor(params)
    data = dict(data)
    state = processor.prepare(data, shape)
    processor.finish(data, state, shape)
    return data


def corners(num_max: int = 30) -> st.SearchStrategy[np.ndarray]:
    """Boxes inside the image as shares, at least a tenth of a pixel large."""
    low = st.floats(0, 0.9)
    size = st.floats(0.01, 1.0)
    box = st.tuples(low, low, size, size).map(
        lambda b: (b[0], b[1], min(1, b[0] + b[2]), min(1, b[1] + b[3]))
    )
    return st.lists(box, min_size=1, max_size=num_max).map(np.array)


def written(boxes: np.ndarray, format_: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Corners in shares, as the format writes them; plainly computed."""
    height, width = shape[:2]
    scale = np.array([width, height, width, height]) if format_ in {"coco", "pascal_voc"} else np.ones(4)
    x0, y0, x1, y1 = (boxes * scale).T
    if format_ == "coco":
        return np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    if format_ == "yolo":
        return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    return np.stack([x0, y0, x1, y1], axis=1)


@given(boxes=corners(), format_=st.sampled_from(FORMATS))
def test_inner_form_is_corners_in_shares_and_the_way_back_returns(boxes: np.ndarray, format_: str) -> None:
    given_boxes = written(boxes, format_)
    processor = BboxProcessor(BboxParams(format_))
    data: dict[str, Any] = {"bboxes": given_boxes.tolist()}
    state = processor.prepare(data, SHAPE)
    np.testing.assert_allclose(data["bboxes"], boxes, atol=1e-12)
    processor.finish(data, state, SHAPE)
    assert isinstance(data["bboxes"], list)
    np.testing.assert_allclose(data["bboxes"], given_boxes, atol=1e-10)


limits = st.fixed_dictionaries(
    {},
    optional={
        "min_area": st.sampled_from([0, 5, 60, 900.5]),
        "min_visibility": st.sampled_from([0.0, 0.1, 0.3, 0.77]),
        "min_width": st.sampled_from([0, 3, 11.5]),
        "min_height": st.sampled_from([0, 2, 7.25]),
        "max_accept_ratio": st.sampled_from([None, 1.0, 2.0, 3.3]),
    },
)


@pytest.mark.sweep
@given(
    boxes=corners(),
    format_=st.sampled_from(FORMATS),
    limits=limits,
    move=st.tuples(st.floats(0.3, 2.5), st.floats(0.3, 2.5), st.floats(-0.8, 0.8), st.floats(-0.8, 0.8)),
    as_array=st.booleans(),
)
@example(
    boxes=np.array([[0.1, 0.1, 0.6, 0.6]]), format_="coco", limits={}, move=(1, 1, 0.6, 0), as_array=True
)
def test_survivors_and_their_labels_are_those_of_the_oracle(
    boxes: np.ndarray,
    format_: str,
    limits: dict[str, Any],
    move: tuple[float, float, float, float],
    as_array: bool,
) -> None:
    scale, shift = move[:2], move[2:]
    out_shape = (71, 83, 3)
    moved = boxes * [*scale, *scale] + [*shift, *shift]
    assume(not near_a_limit(moved, limits, out_shape))
    given_boxes = written(boxes, format_)
    data: dict[str, Any] = {
        "image": np.zeros(SHAPE, np.uint8),
        "bboxes": given_boxes if as_array else given_boxes.tolist(),
        "labels": [f"label {number}" for number in range(len(boxes))],
    }
    ours, theirs = dict(data), dict(data)
    processor = BboxProcessor(BboxParams(format_, label_fields=["labels"], **limits))
    state = processor.prepare(ours, SHAPE)
    ours["bboxes"] = processor.filter(affine(ours["bboxes"], scale, shift), out_shape)
    processor.finish(ours, state, out_shape)

    reference = oracle(format=format_, label_fields=["labels"], **limits)
    reference.preprocess(theirs)
    theirs["image"] = np.zeros(out_shape, np.uint8)
    shape = {"height": out_shape[0], "width": out_shape[1]}
    theirs["bboxes"] = reference.filter(affine(theirs["bboxes"], scale, shift), shape)
    theirs = reference.postprocess(theirs)

    assert ours["labels"] == theirs["labels"]
    assert type(ours["bboxes"]) is type(theirs["bboxes"])
    np.testing.assert_allclose(
        np.reshape(ours["bboxes"], (-1, 4)), np.reshape(theirs["bboxes"], (-1, 4)), atol=2e-4, rtol=1e-5
    )


def affine(inner: np.ndarray, scale: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    moved = inner.astype(np.float64)
    moved[:, :4] = moved[:, :4] * [*scale, *scale] + [*shift, *shift]
    return moved


def near_a_limit(moved: np.ndarray, limits: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether float32, in which the oracle starts, could decide a box otherwise."""
    height, width = shape[:2]
    cut = moved.clip(0, 1)
    widths, heights = (cut[:, 2] - cut[:, 0]) * width, (cut[:, 3] - cut[:, 1]) * height
    whole = (moved[:, 2] - moved[:, 0]) * width * (moved[:, 3] - moved[:, 1]) * height
    areas = widths * heights
    with np.errstate(all="ignore"):
        pairs = [
            (areas, limits.get("min_area", 0)),
            (areas / whole, limits.get("min_visibility", 0)),
            (widths, limits.get("min_width", 0)),
            (heights, limits.get("min_height", 0)),
            (np.maximum(widths / heights, heights / widths), limits.get("max_accept_ratio") or 1e9),
        ]
    # What is outside altogether is 0 in both; just above 0 is where they might differ.
    outside = areas == 0
    return any(bool(np.any((np.abs(value - limit) < 1e-3) & ~outside)) for value, limit in pairs)


@given(boxes=corners(40), limits=limits, shift=st.floats(-0.5, 0.5), num_rows=st.integers(0, 40))
def test_few_boxes_and_many_are_filtered_alike(
    boxes: np.ndarray, limits: dict[str, Any], shift: float, num_rows: int
) -> None:
    processor = BboxProcessor(BboxParams("albumentations", **limits))
    inner = (boxes + shift)[:num_rows]
    alone = [processor.filter(inner[row : row + 1], SHAPE) for row in range(len(inner))]
    together = processor.filter(np.concatenate([inner, boxes, boxes]), SHAPE)
    alone += [processor.filter(boxes[row : row + 1], SHAPE) for row in range(len(boxes))] * 2
    np.testing.assert_array_equal(together, np.concatenate(alone))


@given(boxes=corners(), limits=limits, shift=st.floats(-0.5, 0.5))
def test_filtering_twice_changes_nothing(boxes: np.ndarray, limits: dict[str, Any], shift: float) -> None:
    processor = BboxProcessor(BboxParams("albumentations", **{**limits, "min_visibility": 0.0}))
    once = processor.filter(boxes + shift, SHAPE)
    np.testing.assert_array_equal(processor.filter(once, SHAPE), once)


def test_filter_leaves_its_input_alone() -> None:
    inner = np.array([[-0.5, 0.1, 0.5, 1.2], [0.1, 0.1, 0.2, 0.2]])
    before = inner.copy()
    kept = BboxProcessor(BboxParams("albumentations")).filter(inner, SHAPE)
    np.testing.assert_array_equal(inner, before)
    np.testing.assert_array_equal(kept, [[0, 0.1, 0.5, 1.0], [0.1, 0.1, 0.2, 0.2]])


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"],
        [1, 2],
        [1.5, 2.5],
        [True, False],
        [1, "mixed"],
        [2**60 + 1, 3],
        [{"an": "object"}, None],
        [1, 2.5],
        [float("nan"), 1.0],
        [np.int64(4), np.int64(5)],
    ],
)
def test_labels_in_a_list_come_back_with_their_types(labels: list[Any]) -> None:
    boxes = [[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.9, 0.9]]
    result = through(
        BboxParams("albumentations", label_fields=["labels"], min_area=200),
        {"bboxes": boxes, "labels": labels},
    )
    assert len(result["labels"]) == len(result["bboxes"]) == 1
    assert type(result["labels"][0]) is type(labels[1])
    assert result["labels"][0] is labels[1] or result["labels"][0] == labels[1]


@given(
    labels=hnp.arrays(
        st.sampled_from(["i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "?", "U5", "O"]),
        st.sampled_from([(3,), (3, 2)]),
        elements=None,
    ).filter(lambda array: array.dtype != object)
)
def test_labels_in_an_array_come_back_with_their_dtype(labels: np.ndarray) -> None:
    boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.9, 0.9], [0.0, 0.0, 0.5, 0.5]])
    data = {"bboxes": boxes, "labels": labels}
    result = through(BboxParams("albumentations", label_fields=["labels"], min_area=200), data)
    assert result["labels"].dtype == labels.dtype
    np.testing.assert_array_equal(result["labels"], labels[1:])


def test_plain_numbers_are_visible_to_transforms_which_may_change_them() -> None:
    processor = BboxProcessor(BboxParams("albumentations", label_fields=["classes"]))
    data: dict[str, Any] = {"bboxes": [[0.1, 0.1, 0.2, 0.2, 0.75]], "classes": [3]}
    state = processor.prepare(data, SHAPE)
    np.testing.assert_array_equal(data["bboxes"], [[0.1, 0.1, 0.2, 0.2, 0.75, 3.0]])
    data["bboxes"][:, 5] = 7
    processor.finish(data, state, SHAPE)
    assert data == {"bboxes": [[0.1, 0.1, 0.2, 0.2, 0.75]], "classes": [7]}
    assert type(data["classes"][0]) is int


def test_a_transform_may_repeat_and_reorder_rows() -> None:
    processor = BboxProcessor(BboxParams("albumentations", label_fields=["names"]))
    data: dict[str, Any] = {"bboxes": [[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1, 1]], "names": ["a", "b"]}
    state = processor.prepare(data, SHAPE)
    data["bboxes"] = data["bboxes"][[1, 0, 1]]
    processor.finish(data, state, SHAPE)
    assert data["names"] == ["b", "a", "b"]
    assert data["bboxes"] == [[0.5, 0.5, 1.0, 1.0], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "empty", [[], (), np.zeros((0, 4)), np.zeros((0, 5), np.float32), np.zeros(0)], ids=str
)
def test_no_boxes(format_: str, empty: Any) -> None:
    data = {"bboxes": empty, "labels": [], "ids": np.zeros(0, np.int32)}
    result = through(BboxParams(format_, label_fields=["labels", "ids"], min_area=5), data)
    if isinstance(empty, np.ndarray):
        assert result["bboxes"].shape == (0, empty.shape[1] if empty.ndim == 2 else 4)
        assert result["bboxes"].dtype == empty.dtype
    else:
        assert result["bboxes"] == []
    assert result["labels"] == []
    assert result["ids"].dtype == np.int32


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_arrays_keep_their_float_type_and_are_not_changed(dtype: str) -> None:
    boxes = np.array([[10, 20, 30, 40, 7]], dtype)
    before = boxes.copy()
    result = through(BboxParams("pascal_voc"), {"bboxes": boxes}, (64, 128, 3))["bboxes"]
    np.testing.assert_array_equal(boxes, before)
    assert result.dtype == dtype
    assert not np.shares_memory(result, boxes)
    np.testing.assert_array_equal(result, before)


def test_arrays_of_integers_become_floats() -> None:
    assert through(BboxParams("coco"), {"bboxes": np.array([[1, 2, 3, 4]])})["bboxes"].dtype == np.float64


def test_clip_cuts_what_is_given() -> None:
    data = {"bboxes": [[-10, 5, 50, 30], [90, 50, 120, 70]]}
    with pytest.raises(RecipeError, match=r"\(-10, 5, 50, 30\) is no pascal_voc box"):
        through(BboxParams("pascal_voc"), data)
    np.testing.assert_allclose(
        through(BboxParams("pascal_voc", clip=True), data)["bboxes"], [[0, 5, 50, 30], [90, 50, 100, 60]]
    )


def test_filter_invalid_drops_what_is_no_box() -> None:
    boxes = [[10, 5, 50, 30], [50, 5, 10, 30], [10, 10, 10, 20], [150, 10, 160, 20], [60, 60, 20, 20]]
    boxes.append([float("nan"), 0, 10, 10])
    data = {"bboxes": boxes, "labels": list("abcdef")}
    params = BboxParams("pascal_voc", label_fields=["labels"], filter_invalid_bboxes=True)
    assert through(params, data)["labels"] == ["a"]


@pytest.mark.parametrize("num_more", [0, 30])
@pytest.mark.parametrize(
    "bad", [[0.5, 0.1, 0.4, 0.2], [0.1, 0.1, 0.1, 0.2], [0.1, 0.5, 0.2, 0.4], [0.1, -0.1, 0.2, 0.2],
            [0.1, 0.1, 1.1, 0.2], [float("nan"), 0.1, 1.0, 0.2], [float("inf"), 0.1, 1.0, 0.2]]
)  # fmt: skip
def test_a_bad_box_is_quoted(bad: list[float], num_more: int) -> None:
    boxes = [[0.1, 0.1, 0.2, 0.2]] * num_more + [bad] + [[0.1, 0.1, 0.2, 0.2]]
    with pytest.raises(RecipeError, match=f"\\({bad[0]:g}, {bad[1]:g}, ".replace("+", ".")):
        through(BboxParams("albumentations"), {"bboxes": boxes})


def test_a_box_moved_out_is_dropped_also_where_only_the_end_is_checked() -> None:
    processor = BboxProcessor(BboxParams("coco", check_each_transform=False))
    assert not processor.check_each_transform
    data: dict[str, Any] = {"bboxes": [[10, 10, 5, 5]]}
    state = processor.prepare(data, SHAPE)
    data["bboxes"][:, [0, 2]] += 1
    processor.finish(data, state, SHAPE)
    assert data["bboxes"] == []


def test_whole_boxes_pass_the_visibility_of_one() -> None:
    processor = BboxProcessor(BboxParams("albumentations", min_visibility=1.0))
    inner = np.array([[0.1, 0.1, 0.4, 0.4], [-0.1, 0.1, 0.4, 0.4]] * 20)
    np.testing.assert_array_equal(processor.filter(inner, SHAPE), inner[::2])
    np.testing.assert_array_equal(processor.filter(inner[:2], SHAPE), inner[:1])


def test_labels_go_with_the_target_called_bboxes_or_else_with_the_alias() -> None:
    params = BboxParams("albumentations", label_fields=["labels"])
    alias = BboxProcessor(params, "others")
    both: dict[str, Any] = {"bboxes": [[0, 0, 1, 1]], "others": [[0, 0, 1, 1]] * 2, "labels": ["a"]}
    state = alias.prepare(both, SHAPE)
    alias.finish(both, state, SHAPE)
    assert both == {"bboxes": [[0, 0, 1, 1]], "others": [[0.0, 0.0, 1.0, 1.0]] * 2, "labels": ["a"]}
    alone: dict[str, Any] = {"others": [[0, 0, 1, 1]], "labels": ["a"]}
    state = alias.prepare(alone, SHAPE)
    alone["others"] = alone["others"][[0, 0]]
    alias.finish(alone, state, SHAPE)
    assert alone["labels"] == ["a", "a"]


@pytest.mark.parametrize(
    ("bboxes", "labels", "match"),
    [
        ([[0.1, 0.1, 0.2]], ["a"], "at least 4 numbers"),
        ([[0.1, 0.1, 0.2, 0.2, "cat"]], ["a"], "pass labels in fields of their own"),
        ([[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2, 5]], ["a", "b"], "all of one length"),
        ([0.1, 0.1, 0.2, 0.2], ["a"], "at least 4 numbers"),
        ([[0.1, 0.1, 0.2, 0.2]], ["a", "b"], "1 bboxes and 2 labels"),
        ([[0.1, 0.1, 0.2, 0.2]], None, "'labels', which was not given"),
        (
            [[0.1, 0.1, 0.2, 0.2]],
            3,
            "labels in 'labels' must be a list or an array, one for each of bboxes, got 3",
        ),
    ],
)
def test_what_is_no_boxes_is_refused(bboxes: Any, labels: Any, match: str) -> None:
    data = {"bboxes": bboxes} if labels is None else {"bboxes": bboxes, "labels": labels}
    with pytest.raises(RecipeError, match=match):
        through(BboxParams("albumentations", label_fields=["labels"]), data)


@pytest.mark.parametrize("names", [("bboxes", "keypoints"), ("first", "second")])
def test_no_two_targets_share_a_label_field(names: tuple[str, str]) -> None:
    compose = A.Compose(
        [A.Crop(0, 0, 5, 5, p=1)],
        bbox_params=A.BboxParams("coco", label_fields=["labels"]),
        keypoint_params=A.KeypointParams("xy", label_fields=["labels"]),
        additional_targets={"first": "bboxes", "second": "bboxes"},
    )
    one, other = names
    data = {"image": np.zeros((40, 40, 3), np.uint8), "labels": [1, 2]}
    rows = {one: [[1, 1, 2, 2], [30, 30, 2, 2]], other: [[20, 20, 1, 1], [2, 2, 1, 1]]}
    with pytest.raises(
        RecipeError, match=f"'labels' is that of '{one}' and of '{other}'.*give each a field of its own"
    ):
        compose(**data, **rows)
    for name, rows_of_one in rows.items():
        assert len(compose(**data, **{name: rows_of_one})["labels"]) == 1
    assert compose(**data, bboxes=rows[one], second=rows[one])["labels"] == [1]  # it is that of bboxes


def test_a_transform_that_loses_columns_is_told() -> None:
    processor = BboxProcessor(BboxParams("albumentations", label_fields=["labels"]))
    data: dict[str, Any] = {"bboxes": [[0, 0, 1, 1]], "labels": ["a"]}
    state = processor.prepare(data, SHAPE)
    data["bboxes"] = data["bboxes"][:, :4]
    with pytest.raises(RecipeError, match="returned bboxes of 4 columns, and was given 5"):
        processor.finish(data, state, SHAPE)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "format must be one of 'coco'"),
        ({"format": "voc"}, "format must be one of 'coco'"),
        ({"format": "coco", "coord_format": "yolo"}, "give one of the two"),
        ({"format": "coco", "label_fields": "labels"}, "must be a list of names"),
        ({"format": "coco", "label_fields": ["names", "mask"]}, r"names of their own, got \['mask'\]"),
        ({"format": "coco", "min_area": -1}, "min_area must be 0 or more"),
        ({"format": "coco", "min_visibility": 1.5}, "share from 0 to 1"),
        ({"format": "coco", "max_accept_ratio": 0.5}, "1 or more"),
    ],
)
def test_params_check_themselves(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        BboxParams(**arguments)


def test_the_newer_name_of_format_is_accepted() -> None:
    assert BboxParams(coord_format="yolo") == BboxParams("yolo")
