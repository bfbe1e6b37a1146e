"""Pipelines as data: everything survives, and nothing but registered classes is ever made."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import augstream as A
from augstream.errors import RecipeError
from augstream.transforms import serialization
from augstream.transforms.serialization import registered_classes
from augstream.transforms.values import decode, encode

GOLDEN = Path(__file__).parent / "golden"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def shift(image: np.ndarray, **_: Any) -> np.ndarray:
    return image + 1


SHIFT = A.Lambda(image=shift, name="shift")


def pipeline(**arguments: Any) -> A.Compose:
    """What tests/golden/pipeline_v1.json and .yaml hold, with seed 137 and the name "train"."""
    return A.Compose(
        [
            A.RandomCrop(height=24, width=20),
            A.OneOf([A.HorizontalFlip(p=0.3), A.Sequential([A.VerticalFlip(p=0.6)], p=0.2)], p=0.8),
            A.SomeOf([A.Transpose(), A.RandomRotate90(), A.NoOp()], n=2),
            A.RandomOrder([A.HorizontalFlip(), A.D4()], n=2),
            A.OneOrOther(A.NoOp(), A.Compose([A.RandomBrightnessContrast(p=0.9)], seed=5)),
            SHIFT,
        ],
        **{
            "bbox_params": A.BboxParams(
                "coco", label_fields=["labels"], min_area=4, filter_invalid_bboxes=True
            ),
            "keypoint_params": {"format": "xya", "remove_invisible": False},
            "additional_targets": {"image2": "image"},
            "seed": 137,
            "name": "train",
            **arguments,
        },
    )


def results(compose: A.Compose, num: int = 6) -> list[bytes]:
    return [compose(image=IMAGE)["image"].tobytes() for _ in range(num)]


# Everything survives


def test_a_dict_holds_all_of_a_pipeline() -> None:
    data = A.to_dict(pipeline())
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    loaded = A.from_dict(data, nonserializable={"shift": SHIFT})
    assert A.to_dict(loaded) == data
    assert results(loaded) == results(pipeline())


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml", ".JSON", ".txt"])
def test_a_file_holds_all_of_a_pipeline(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pipeline{suffix}"
    A.save(pipeline(), path)
    text = path.read_text()
    assert text.startswith("{") == (suffix in {".json", ".JSON", ".txt"})
    loaded = A.load(str(path), nonserializable={"shift": SHIFT})
    assert A.to_dict(loaded) == A.to_dict(pipeline())
    assert results(loaded) == results(pipeline())


@pytest.mark.parametrize("data_format", ["json", "yaml"])
def test_a_buffer_holds_all_of_a_pipeline(data_format: Any) -> None:
    buffer = io.StringIO()
    A.save(pipeline(), buffer, data_format=data_format)
    buffer.seek(0)
    loaded = A.load(buffer, data_format=data_format, nonserializable={"shift": SHIFT})
    assert A.to_dict(loaded) == A.to_dict(pipeline())


def test_the_seed_is_saved_as_it_is_now() -> None:
    compose = A.Compose([A.RandomCrop(20, 20)], seed=1)
    compose.set_random_seed(200)
    assert results(A.from_dict(A.to_dict(compose))) == results(A.Compose([A.RandomCrop(20, 20)], seed=200))
    assert A.from_dict(A.to_dict(A.Compose([A.NoOp()]))).seed is None


def test_every_argument_of_compose_survives() -> None:
    arguments: dict[str, Any] = {
        "p": 0.25, "is_check_shapes": False, "strict": True, "mask_interpolation": 2, "save_applied_params": True,
        "name": "x", "worker_seed": "stable", "fused": False, "seed": 9, "additional_targets": {"a": "mask"},
    }  # fmt: skip
    loaded = A.from_dict(A.to_dict(A.Compose([A.Resize(3, 3)], **arguments)))
    assert {name: loaded.init_arguments[name] for name in arguments} == arguments
    assert loaded.transforms[0].mask_interpolation == 2


def test_transforms_given_as_an_iterator_survive() -> None:
    compose = A.Compose(iter([A.NoOp(), A.HorizontalFlip()]), seed=1)
    assert [type(t).__name__ for t in A.from_dict(A.to_dict(compose))] == ["NoOp", "HorizontalFlip"]


def test_a_lone_transform_can_be_saved() -> None:
    assert A.from_dict(A.to_dict(A.RandomCrop(3, 4, p=0.5))).init_arguments["width"] == 4


@pytest.mark.parametrize("name", ["pipeline_v1.json", "pipeline_v1.yaml"])
def test_golden_files_load(name: str) -> None:
    """Made once, by the release that wrote version 1; they stay as they are as long as version 1 is read."""
    loaded = A.load(GOLDEN / name, nonserializable={"shift": SHIFT})
    assert A.to_dict(loaded) == A.to_dict(pipeline())


# Values


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=9),
    hnp.arrays(
        st.sampled_from(["u1", "i8", "u8", "f2", "f4", "f8", "?", "c8", ">f4", "f16"]),
        hnp.array_shapes(min_dims=0, max_side=3, min_side=0),
    ),
    st.builds(np.float32, st.floats(width=32)), st.builds(np.uint8, st.integers(0, 255)),
)  # fmt: skip
keys = st.one_of(
    st.text(max_size=3), st.sampled_from(["$tuple", "$class", "$"]), st.integers(), st.booleans()
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (np.ndarray, np.generic)):
        return first.dtype == second.dtype and np.array_equal(
            first, second, equal_nan=first.dtype.kind in "fc"
        )
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)


@given(value=anything)
def test_values_survive_json_with_their_types(value: Any) -> None:
    text = json.dumps(encode(value, "here"), allow_nan=False)
    assert same(decode(json.loads(text), "here"), value)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, len, np.array([object()]), np.datetime64("2020-01-01"), int]
)
def test_what_is_no_data_is_named(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"the place\[0\] is a .*, which can't be written as data"):
        encode([value], "the place")


@pytest.mark.parametrize(
    "value",
    [
        {"$array": [1], "dtype": "object", "shape": [1]},
        {"$array": [1, 2], "dtype": "u1", "shape": [3]},
        {"$array": [1], "dtype": "nonsense", "shape": [1]},
        {"$array": "zz", "dtype": "c8", "shape": [1]},
        {"$array": [1]},
        {"$bytes": "0"},
        {"$float": "__import__('os')"},
        {"$tuple": 5},
        {"$dict": [[1]]},
        {"$dict": [[[1], 2]]},
        {"$nonsense": 1},
    ],
)
def test_what_was_never_written_is_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match="here is not what augstream writes"):
        decode(value, "here")


# Custom transforms


def test_custom_transforms_register_and_keep_the_types_of_their_arguments() -> None:
    @A.register
    class Exact(A.ImageOnlyTransform):
        def __init__(self, value: Any, p: float = 0.5, **more: Any) -> None:
            super().__init__(p)

    arguments = {"value": [(1, 2), [3, np.float32(0.1)], {"a": np.arange(3)}], "p": 0.25, "more": b"\x00"}
    loaded = A.from_dict(json.loads(json.dumps(A.to_dict(A.Compose([Exact(**arguments)])))))
    assert type(loaded[0]) is Exact
    assert same(loaded[0].init_arguments, arguments)


def test_custom_compositions_register_under_a_name() -> None:
    @A.register(name="acme.Twice")
    class Twice(A.BaseCompose):
        pass

    data = A.to_dict(Twice([A.NoOp(p=1)], p=0.5))
    assert data["transform"]["$class"] == "acme.Twice"
    assert type(A.from_dict(data)) is Twice


def test_what_is_not_registered_cannot_be_saved() -> None:
    class Private(A.ImageOnlyTransform):
        pass

    with pytest.raises(RecipeError, match=r"Private is not registered.*@augstream\.register"):
        A.to_dict(A.Compose([Private()]))

    @A.register
    class Parent(A.ImageOnlyTransform):
        pass

    class Child(Parent):
        pass

    with pytest.raises(RecipeError, match="Child is not registered"):
        A.to_dict(Child())
    with pytest.raises(RecipeError, match="to_dict takes a transform"):
        A.to_dict(5)


def test_names_are_taken_once() -> None:
    with pytest.raises(RecipeError, match="the name 'HorizontalFlip' is taken by augstream"):
        A.register(type("HorizontalFlip", (A.ImageOnlyTransform,), {}))
    with pytest.raises(RecipeError, match="register takes subclasses"):
        A.register(int)


def test_a_class_that_is_defined_again_replaces_itself() -> None:
    def define(value: int) -> Any:
        @A.register
        class Again(A.ImageOnlyTransform):
            number = value

        return Again

    first, second = define(1), define(2)
    assert A.from_dict(A.to_dict(second())).number == 2
    del first


# A stranger's file


def wrapped(node: Any) -> dict[str, Any]:
    return {"format": "augstream-pipeline", "version": 1, "transform": node}


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "BasicTransform",
        "BaseCompose",
        "Compose.__init__",
        "",
        "print",
    ],
)
def test_only_registered_classes_are_made(name: str) -> None:
    for node in (
        {"$class": name, "args": "touch x"},
        {"$class": "Compose", "transforms": [{"$class": name}]},
    ):
        with pytest.raises(RecipeError, match="there is no transform"):
            A.from_dict(wrapped(node))
    with pytest.raises(RecipeError, match="there is no transform"):
        A.from_dict({"transform": {"__class_fullname__": f"albumentations.{name}"}})


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"transform: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]"
    )
    with pytest.raises(RecipeError, match="the file is no YAML"):
        A.load(path)
    assert not canary.exists()


def test_yaml_aliases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    path.write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="it has aliases"):
        A.load(path)


def test_yaml_of_too_many_values_is_left_on_the_way() -> None:
    with pytest.raises(RecipeError, match="more than 100000 values"):
        A.load(io.StringIO("[" + "1," * 110_000 + "]: not YAML"), data_format="yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"pipeline.json: not a saved pipeline: not a text in UTF-8"):
        A.load(tmp_path / "pipeline.json")


@pytest.mark.parametrize("data_format", ["json", "yaml"])
def test_texts_are_bounded(data_format: Any) -> None:
    with pytest.raises(RecipeError, match="larger than"):
        A.load(io.StringIO(" " * (serialization.MAX_BYTES + 1)), data_format=data_format)
    depth = 100_000 if data_format == "json" else 5_000
    with pytest.raises(RecipeError, match="the file is no"):
        A.load(io.StringIO("[" * depth + "]" * depth), data_format=data_format)


def test_data_is_bounded() -> None:
    node: Any = {"$class": "NoOp"}
    for _ in range(serialization.MAX_DEPTH):
        node = {"$class": "Sequential", "transforms": [node]}
    with pytest.raises(RecipeError, match="nested deeper than"):
        A.from_dict(wrapped(node))
    many = [0] * (serialization.MAX_VALUES + 1)
    with pytest.raises(RecipeError, match="more than 100000 values"):
        A.from_dict(wrapped({"$class": "NoOp", "p": many}))
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(RecipeError, match="nested deeper than"):
        A.from_dict(wrapped({"$class": "NoOp", "p": ring}))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({}, "not a saved pipeline"),
        ([], "not a saved pipeline"),
        ({"transform": []}, "not a saved pipeline"),
        ({"transform": {"$class": "NoOp"}}, "its format is None instead of 'augstream-pipeline'"),
        ({**wrapped({"$class": "NoOp"}), "version": 2}, "saved in version 2 .* reads version 1"),
        (wrapped({"class": "NoOp"}), "names no class"),
        (wrapped({"$class": ["NoOp"]}), "names no class"),
        (
            wrapped({"$class": "HorizontalFlop"}),
            "no transform 'HorizontalFlop'; did you mean 'HorizontalFlip'",
        ),
        (wrapped({"$class": "NoOp", "q": 1}), r"transform: NoOp can't be made .* no argument 'q'"),
        (wrapped({"$class": "NoOp", "p": 7}), "transform: NoOp can't be made .* p is a probability"),
        (wrapped({"$class": "RandomCrop"}), "transform: RandomCrop can't be made .* 'height'"),
        (
            wrapped({"$class": "Compose", "transforms": [{"$class": "NoOp"}, {"$class": "OneOf"}]}),
            r"transform\.transforms\[1\]: OneOf can't be made",
        ),
        (wrapped({"$class": "Compose", "transforms": [5]}), r"transforms\[0\] is 5, which is no transform"),
    ],
)
def test_what_is_no_pipeline_is_told(data: Any, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        A.from_dict(data)


def test_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.json"
    path.write_text('{"format": ')
    with pytest.raises(RecipeError, match="the file is no JSON"):
        A.load(path)
    with pytest.raises(RecipeError, match="data_format must be 'json' or 'yaml'"):
        A.load(path, data_format="xml")  # type: ignore[arg-type]  # that is the point


def test_yaml_is_asked_for_where_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(RecipeError, match=r"pip install 'augstream\[yaml\]'"):
        A.save(A.NoOp(), tmp_path / "x.yaml")
    A.save(A.NoOp(), tmp_path / "x.json")


# Lambdas


def test_lambdas_are_saved_by_name() -> None:
    data = A.to_dict(A.Compose([SHIFT]))
    assert data["transform"]["transforms"] == [{"$class": "Lambda", "name": "shift"}]
    assert A.from_dict(data, nonserializable={"shift": SHIFT})[0] is SHIFT
    with pytest.raises(RecipeError, match="a Lambda named 'shift'; pass nonserializable"):
        A.from_dict(data)
    with pytest.raises(RecipeError, match="give it one"):
        A.to_dict(A.Compose([A.Lambda(image=shift)]))


# albumentations 2.0.8


@pytest.mark.parametrize("name", ["albumentations_2_0_8.json", "albumentations_2_0_8.yaml"])
def test_files_of_albumentations_load(name: str) -> None:
    """The golden files were saved by albumentations 2.0.8 itself, from the pipeline that is written out here."""
    loaded = A.load(GOLDEN / name)
    expected = A.Compose(
        [
            A.RandomResizedCrop(size=(24, 20), scale=(0.5, 1.0)),
            A.OneOf([A.HorizontalFlip(p=0.3), A.VerticalFlip(p=0.6)], p=0.8),
            A.SomeOf([A.Transpose(), A.RandomRotate90(), A.NoOp()], n=2),
            A.Sequential(
                [A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, p=0.8)], p=0.9
            ),
            A.OneOrOther(A.Blur(blur_limit=3), A.MedianBlur(blur_limit=3)),
            A.GaussNoise(std_range=(0.1, 0.2), p=0.2),
            A.PadIfNeeded(min_height=32, min_width=32, border_mode=4),
            A.CoarseDropout(num_holes_range=(1, 3), fill=0),
            A.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ],
        bbox_params=A.BboxParams(format="coco", label_fields=["labels"], min_area=4, min_visibility=0.1),
        keypoint_params=A.KeypointParams(format="xya", remove_invisible=False),
        additional_targets={"image2": "image"},
        p=0.95,
    )
    assert loaded.seed is None  # 2.0.8 saves no seed
    loaded.set_random_seed(1)
    expected.set_random_seed(1)
    assert results(loaded, 20) == results(expected, 20)
    for attribute in ("bbox_params", "keypoint_params", "additional_targets", "p"):
        assert getattr(loaded, attribute) == getattr(expected, attribute)


@pytest.mark.parametrize("prefix", ["", "albumentations.", "albumentations.augmentations.transforms."])
def test_class_paths_of_albumentations_are_mapped(prefix: str) -> None:
    data = {"__version__": "1.4.0", "transform": {"__class_fullname__": f"{prefix}HorizontalFlip", "p": 0.25}}
    assert A.from_dict(data).p == 0.25


@pytest.mark.parametrize(
    ("node", "match"),
    [
        ({"__class_fullname__": "Spatter", "p": 1}, r"transforms\[0\]: there is no transform 'Spatter'"),
        ({"__class_fullname__": "my.package.Custom"}, r"there is no transform 'my\.package\.Custom'"),
        ({"__class_fullname__": "RandomCrop", "height": 3, "width": 3, "depth": 3}, "no argument 'depth'"),
        ({"__class_fullname__": "Lambda", "__name__": "shift"}, "a Lambda named 'shift'"),
    ],
)
def test_what_has_no_equal_here_is_named(node: Any, match: str) -> None:
    data = {
        "__version__": "2.0.8",
        "transform": {"__class_fullname__": "Compose", "p": 1, "transforms": [node]},
    }
    with pytest.raises(RecipeError, match=match):
        A.from_dict(data)


def test_every_own_class_is_found_by_its_name() -> None:
    classes = registered_classes()
    for name in ("Compose", "ReplayCompose", "HorizontalFlip", "RandomCrop", "Lambda", "OneOf", "NoOp"):
        assert classes[name] is getattr(A, name)
    assert not {"BasicTransform", "DualTransform", "ImageOnlyTransform", "BaseCompose"} & set(classes)


def test_yaml_is_plain() -> None:
    buffer = io.StringIO()
    A.save(pipeline(), buffer, data_format="yaml")
    assert yaml.safe_load(buffer.getvalue()) == A.to_dict(pipeline())


# Any file


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


@functools.cache
def everything() -> dict[str, Any]:
    """A saved pipeline of every transform there is."""
    import catalogue_geometry
    import catalogue_pixels

    made = {
        name: getattr(A, name)(**arguments)
        for name, arguments in [*catalogue_geometry.CASES, *catalogue_pixels.CASES]
    }
    return A.to_dict(pipeline(save_applied_params=True) + list(made.values()))


strange = st.one_of(
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.just(10**400)
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(["x", "y", "$class", "p"]), inner, max_size=2),
        ),
        max_leaves=4,
    ),
    st.sampled_from(
        [{"$class": "NoOp"}, {"$class": "Compose"}, {"$tuple": [1]}, {"$array": [1], "dtype": "V9"}]
    ),
)


@pytest.mark.sweep
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_a_pipeline_or_a_recipe_error(data: st.DataObject) -> None:
    saved = everything()
    for _ in range(data.draw(st.integers(1, 2))):
        saved = replaced(saved, data.draw(st.sampled_from(places(saved))), data.draw(strange))
        if not isinstance(saved, dict):
            break
    with contextlib.suppress(RecipeError):
        assert isinstance(
            A.from_dict(saved, nonserializable={"shift": SHIFT}), (A.BaseCompose, A.BasicTransform)
        )
