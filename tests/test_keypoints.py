"""Keypoints: into the inner form, filtered, and back; albumentations 2.0.8 (MIT) is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augstream.errors import RecipeError
from augstream.transforms.annotations import params_from
from augstream.transforms.bboxes import BboxParams
from augstream.transforms.keypoints import KeypointParams, KeypointProcessor

FORMATS = ["xy", "yx", "xya", "xys", "xyas", "xysa", "xyz"]
SHAPE = (60, 100, 3)


def oracle(**arguments: Any) -> Any:
    from albumentations.core.keypoints_utils import KeypointParams as TheirParams
    from albumentations.core.keypoints_utils import KeypointsProcessor as TheirProcessor

    return TheirProcessor(TheirParams(**arguments))


@st.composite
def keypoints(draw: st.DrawFn, format_: str) -> list[list[float]]:
    """Keypoints inside the image, as `format_` writes them."""
    columns = {
        "x": st.integers(0, 99),
        "y": st.integers(0, 59),
        "z": st.integers(0, 9),
        "a": st.floats(0, 359).map(lambda angle: round(angle, 3)),
        "s": st.floats(0, 10, width=32),
    }
    rows = st.tuples(*(columns[letter] for letter in format_)).map(list)
    return draw(st.lists(rows, min_size=1, max_size=20))


@pytest.mark.sweep
@given(data=st.data(), format_=st.sampled_from(FORMATS), degrees=st.booleans(), remove=st.booleans())
def test_inner_form_survivors_and_the_way_back_are_those_of_the_oracle(
    data: st.DataObject, format_: str, degrees: bool, remove: bool
) -> None:
    points = data.draw(keypoints(format_))
    if not degrees and "a" in format_:
        column = format_.index("a")
        for row in points:
            row[column] = float(np.radians(row[column]))
    arguments: dict[str, Any] = {
        "format": format_,
        "label_fields": ["labels"],
        "angle_in_degrees": degrees,
        "remove_invisible": remove,
    }
    given_data = {"keypoints": points, "labels": [f"label {number}" for number in range(len(points))]}
    ours: dict[str, Any] = dict(given_data)
    theirs: dict[str, Any] = {"image": np.zeros(SHAPE, np.uint8), **given_data}
    processor, reference = KeypointProcessor(KeypointParams(**arguments)), oracle(**arguments)
    state = processor.prepare(ours, SHAPE)
    reference.preprocess(theirs)
    np.testing.assert_allclose(ours["keypoints"][:, :5], theirs["keypoints"][:, :5], atol=1e-5)

    move = [30.0, -20.0, 1.0, 3.0, 0.5]
    out_shape = (50, 110, 3)
    for run in (ours, theirs):
        run["keypoints"] = run["keypoints"].astype(np.float64)
        run["keypoints"][:, :5] += move
    ours["keypoints"] = processor.filter(ours["keypoints"], out_shape)
    theirs["keypoints"] = reference.filter(theirs["keypoints"], {"height": 50, "width": 110})
    theirs["image"] = np.zeros(out_shape, np.uint8)
    processor.finish(ours, state, out_shape)
    theirs = reference.postprocess(theirs)

    assert ours["labels"] == theirs["labels"]
    assert isinstance(ours["keypoints"], list)
    if ours["keypoints"]:
        angles_apart = np.subtract(ours["keypoints"], theirs["keypoints"])
        if "a" in format_:  # two angles just beside 0 may be written a turn apart
            turn = 360 if degrees else 2 * np.pi
            column = format_.index("a")
            angles_apart[:, column] = (angles_apart[:, column] + turn / 2) % turn - turn / 2
        np.testing.assert_allclose(angles_apart, 0, atol=2e-4)
    else:
        assert len(theirs["keypoints"]) == 0


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_pipeline_of_nothing_returns_what_was_given(format_: str, dtype: str) -> None:
    points = np.array([[10, 20, 30, 5, 9], [0, 0, 0, 6, 8]], dtype)[:, : len(format_) + 1]
    before = points.copy()
    data: dict[str, Any] = {"keypoints": points, "ids": np.array([5, 6])}
    processor = KeypointProcessor(KeypointParams(format_, label_fields=["ids"]))
    state = processor.prepare(data, SHAPE)
    assert data["keypoints"].shape == (2, 7)  # five, the further column, the label
    processor.finish(data, state, SHAPE)
    np.testing.assert_array_equal(points, before)
    np.testing.assert_allclose(data["keypoints"], before, rtol=1e-6)
    assert data["keypoints"].dtype == dtype
    assert data["ids"].tolist() == [5, 6]


def test_angles_stay_below_a_whole_turn() -> None:
    processor = KeypointProcessor(KeypointParams("xya", angle_in_degrees=False))
    data: dict[str, Any] = {"keypoints": [[1, 1, -1e-20], [1, 1, 7.0], [1, 1, -1.0]]}
    state = processor.prepare(data, SHAPE)
    angles = data["keypoints"][:, 3]
    assert ((angles >= 0) & (angles < 2 * np.pi)).all()
    data["keypoints"][:, 3] = -1e-20
    processor.finish(data, state, SHAPE)
    assert [row[2] for row in data["keypoints"]] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("point", [[100, 5], [-1, 5], [5, 60], [5, -0.5], [float("nan"), 1]])
def test_a_keypoint_outside_is_refused_or_kept(point: list[float]) -> None:
    data: dict[str, Any] = {"keypoints": [[1, 1], point]}
    with pytest.raises(RecipeError, match=f"\\({point[0]:g}, {point[1]:g}\\).*outside of the 60 x 100 image"):
        KeypointProcessor(KeypointParams("xy")).prepare(dict(data), SHAPE)
    processor = KeypointProcessor(KeypointParams("xy", remove_invisible=False))
    state = processor.prepare(data, SHAPE)
    data["keypoints"] = processor.filter(data["keypoints"], SHAPE)
    processor.finish(data, state, SHAPE)
    np.testing.assert_array_equal(data["keypoints"], [[1, 1], point])


@pytest.mark.parametrize("empty", [[], np.zeros((0, 2)), np.zeros(0, np.float32)], ids=str)
def test_no_keypoints(empty: Any) -> None:
    data: dict[str, Any] = {"keypoints": empty, "labels": []}
    processor = KeypointProcessor(KeypointParams("xy", label_fields=["labels"]))
    state = processor.prepare(data, SHAPE)
    assert data["keypoints"].shape == (0, 6)
    processor.finish(data, state, SHAPE)
    assert data["labels"] == []
    if isinstance(empty, np.ndarray):
        assert data["keypoints"].shape == (0, 2)
        assert data["keypoints"].dtype == empty.dtype
    else:
        assert data["keypoints"] == []


@pytest.mark.parametrize("arguments", [{}, {"format": "xz"}, {"format": "xy", "label_fields": "labels"}])
def test_params_check_themselves(arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        KeypointParams(**arguments)


def test_params_from_a_dict_suggest_the_nearest_name() -> None:
    assert params_from(KeypointParams, {"format": "xy"}) == KeypointParams("xy")
    assert params_from(KeypointParams, None) is None
    with pytest.raises(TypeError, match="no argument 'min_visibilty'; did you mean 'min_visibility'"):
        params_from(BboxParams, {"format": "coco", "min_visibilty": 0.5})
    with pytest.raises(TypeError, match="no argument 'label_field'; did you mean 'label_fields'"):
        BboxParams("coco", label_field=["names"])  # type: ignore[call-arg]  # that is the point
    with pytest.raises(RecipeError, match="or a dict of its arguments"):
        params_from(BboxParams, "coco")  # type: ignore[arg-type]  # that is the point
