"""The commands `replay` and `preview`: look at one sample, or at many."""

from __future__ import annotations

import argparse
import code
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from ..augment import NoStage
from ..cli import add_command, add_shards, check_outputs, say
from ..dataset import StreamDataset
from ..decode import Field
from ..errors import AugstreamError, RecipeError
from ..images.encoded import DecodeMode
from ..images.pixels import MAX_PIXELS
from ..order import Recipe
from ..seeding import Address
from ..stream import FULL_SCOPE
from ..transforms.serialization import load
from .explain import Explanation, explain, explain_address, plain
from .pictures import encoded, looks_like_a_picture, size_of
from .positions import Found, Position, find
from .preview import Place, choose, contact_sheet, stages_sheet, write_page

_BANNER = """before: the sample as it is on disk; sample: as it is delivered; images: after each transform, by slot
and name; params: what was drawn; explanation: all of it; dataset: the stream; A: augstream. Ctrl-D ends."""
_PIPELINE = "a saved Compose (.json, .yaml), or module:name of a transform or of a function that makes one"


def load_pipeline(text: str) -> Any:
    """The pipeline that a command line names: a file saved by `augstream.save`, or ``module:name``.

    A file is data, and runs no code. ``module:name`` imports the module, as it says, from the
    current directory too. Raises `RecipeError` for a file or name that is not there.
    """
    path = Path(text)
    if path.suffix in {".json", ".yaml", ".yml"}:
        return load(str(path), data_format="json" if path.suffix == ".json" else "yaml")
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        msg = f"{text!r} is no pipeline; give {_PIPELINE}"
        raise RecipeError(msg)
    if not {"", str(Path.cwd())} & set(
        sys.path
    ):  # started as a script, Python looks beside the script instead
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module_name), name)
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        msg = f"could not get {name!r} from module {module_name!r}: {type(error).__name__}: {error}"
        raise RecipeError(msg) from error
    if not _is_maker(found):
        return found
    try:
        made = found()
    except (Exception, SystemExit) as error:
        msg = f"{text!r} could not be made: {type(error).__name__}: {error}"
        raise RecipeError(msg) from error
    if made is None:
        msg = f"{text!r} returned None; let it return the transform, or leave out --pipeline for none"
        raise RecipeError(msg)
    return made


def _is_maker(found: Any) -> bool:
    """Whether it is a function of nothing, and so no transform itself."""
    if not inspect.isroutine(found) and not isinstance(found, partial):
        return False
    return all(
        parameter.default is not parameter.empty
        or parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        for parameter in inspect.signature(found).parameters.values()
    )


def add_stream_arguments(parser: argparse.ArgumentParser, *, recipe: bool = True) -> None:
    """Add what it takes to make a stream: the pipeline, the fields and, unless it is found elsewhere, the recipe."""
    parser.add_argument("--pipeline", metavar="FILE|MODULE:NAME", help=_PIPELINE)
    if recipe:
        parser.add_argument("--seed", type=int, default=0, help="the stream's seed (default 0)")
        parser.add_argument(
            "--lanes", type=int, help="the stream's lanes (default 8, or 1 with --no-shuffle)"
        )
        parser.add_argument(
            "--no-shuffle", action="store_true", help="the stream was made with shuffle=False"
        )
    default = f"default {','.join(FULL_SCOPE)}" if recipe else "default: all of it, or what the address has"
    parser.add_argument("--scope", help=f"the stream's scope ({default})")
    parser.add_argument(
        "--fields",
        type=_fields,
        metavar="JSON",
        help="""the stream's fields, {"image": "jpg;png", "label": {"suffixes": ["cls"], "kind": "text"}} say""",
    )
    parser.add_argument(
        "--decode",
        choices=get_args(DecodeMode),
        default="region",
        help="how images are decoded (default region)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"refuse larger images (default {MAX_PIXELS})",
    )


def _fields(text: str) -> Any:
    """The fields that a command line names: JSON, whose dicts stand for `Field` objects."""
    try:
        found = json.loads(text)
    except ValueError as error:
        msg = f"""{text!r} is no JSON ({error}); write '{{"image": "jpg;png", "label": "cls"}}', say"""
        raise argparse.ArgumentTypeError(msg) from None
    try:
        if isinstance(found, dict):
            return {
                name: _field(value) if isinstance(value, dict) else value for name, value in found.items()
            }
    except (AugstreamError, TypeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found


def _field(value: dict[str, Any]) -> Field:
    lists = {name: tuple(item) for name, item in value.items() if isinstance(item, list)}
    return Field(**{**value, **lists})


def numbers_of_workers(text: str) -> list[int]:
    """What ``--workers`` lists, separated by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        msg = f"--workers takes numbers, 0,2,4 say, got {text!r}"
        raise RecipeError(msg)
    return [int(part) for part in parts]


def make_dataset(parsed: argparse.Namespace, *, batch_size: int = 1) -> StreamDataset:
    """The stream that a command line describes."""
    shuffle = not parsed.no_shuffle
    return _dataset(parsed, batch_size=batch_size, seed=parsed.seed, lanes=parsed.lanes, shuffle=shuffle)


def _dataset(
    parsed: argparse.Namespace, *, scope: tuple[str, ...] = FULL_SCOPE, **recipe: Any
) -> StreamDataset:
    """The stream that a command line describes, of a recipe, and of `scope` unless the command line has one."""
    return StreamDataset(
        parsed.shards,
        None if parsed.pipeline is None else load_pipeline(parsed.pipeline),
        scope=scope if parsed.scope is None else tuple(parsed.scope.replace(" ", "").split(",")),
        fields=parsed.fields,
        decode=parsed.decode,
        max_pixels=parsed.max_pixels,
        **recipe,
    )


def _dataset_of(parsed: argparse.Namespace, recipe: Recipe) -> StreamDataset:
    """The stream that a command line describes, of a recipe that was found elsewhere."""
    return _dataset(
        parsed,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        unit=recipe.samples_per_unit,
        lanes=recipe.lanes,
        shuffle=recipe.shuffle,
        window=recipe.window,
        drop_last=recipe.drop_last,
        tail=recipe.tail,
    )


def register_replay(subparsers: Any) -> None:
    """Add the command `replay`."""
    more = (
        "What every transform decided, drew and did, from the sample's address or its position in a ledger. All "
        "draws follow from the address. From a ledger, the recipe is the ledger's, and the batch is held against it."
    )
    parser = add_command(subparsers, "replay", more)
    parser.add_argument(
        "address",
        metavar="ADDRESS|LEDGER:EPOCH:UNIT[:PLACE]",
        help="the address that an error or a batch's __address__ shows, or a position as `diff` shows it; without "
        "PLACE, the samples of the batch are listed",
    )
    add_shards(parser)
    add_stream_arguments(parser, recipe=False)
    parser.add_argument("--picture", type=Path, metavar="PNG", help="write a picture after every transform")
    parser.add_argument("--json", type=Path, help="write gates and drawn parameters")
    parser.add_argument("--interact", action="store_true", help="open a Python prompt with all of it at hand")
    parser.set_defaults(run=_run_replay)


def _run_replay(parsed: argparse.Namespace) -> int:
    check_outputs(parsed.picture, parsed.json)
    position = Position.parse(parsed.address)
    if position is not None and position.place is None and (parsed.json is not None or parsed.interact):
        msg = "--json and --interact are about one sample; add its place, as in run.ledger:0:3:2"
        raise RecipeError(msg)
    if position is not None:
        found = find(position, partial(_dataset_of, parsed))
        status = 1 if found.repeats is False else 0
        say(found.verdict)
        if position.place is None:
            return _list_batch(parsed, found) or status
        shard, key = found.names[position.place]
        explanation = explain(found.dataset, epoch=position.epoch, shard=shard, key=key)
        return _show(parsed, found.dataset, explanation) or status
    address = Address.parse(parsed.address)
    parts = {"shard": True, "worker": address.worker is not None, "epoch": address.epoch is not None}
    scope = tuple(name for name, is_part in parts.items() if is_part)
    dataset = _dataset(parsed, batch_size=1, seed=address.seed, scope=scope)
    return _show(parsed, dataset, explain_address(dataset, address))


def _list_batch(parsed: argparse.Namespace, found: Found) -> int:
    """Say which samples a batch has; their pictures before and after, if wanted."""
    for place, (shard, key) in enumerate(found.names):
        say(f"  {place:>3}  {shard} {key}")
    if parsed.picture is not None:
        picture = contact_sheet(found.dataset, found.names, [found.line.epoch])
        parsed.picture.write_bytes(encoded(picture))
        say(f"wrote {parsed.picture}")
    return 0


def _show(parsed: argparse.Namespace, dataset: StreamDataset, explanation: Explanation) -> int:
    """Say, draw, write and open what a sample went through; 1 if a transform failed."""
    say(*_lines(explanation, is_augmented=not isinstance(dataset.stream.stage, NoStage)))
    if parsed.picture is not None:
        parsed.picture.write_bytes(encoded(stages_sheet(dataset, explanation)))
        say(f"wrote {parsed.picture}")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(explanation.to_dict(), indent=1) + "\n", encoding="utf-8")
        say(f"wrote {parsed.json}")
    if parsed.interact:
        at_hand = {
            "sample": explanation.after, "before": explanation.before, "params": explanation.params(),
            "images": explanation.images(), "explanation": explanation, "dataset": dataset,
        }  # fmt: skip
        code.interact(banner=_BANNER, local={**at_hand, "A": import_module("augstream")}, exitmsg="")
    if explanation.error is not None:
        sys.stderr.writelines(traceback.format_exception(explanation.error))
        return 1
    return 0


def _lines(explanation: Explanation, *, is_augmented: bool) -> Iterator[str]:
    """What a sample went through, in lines."""
    yield explanation.address
    yield f"  on disk: {_size(explanation.before)}"
    before = _size(explanation.before)
    for step in explanation.steps:
        verdict = "failed" if step.error else "applied" if step.applied else "not applied"
        after = _size(step.sample)
        became = "" if after == before else f", {before} -> {after}"
        gate = "" if step.p == 1 else f" (p={step.p:g}, drew {step.gate:.6f})"
        yield f"  {step.slot} {step.name}: {verdict}{gate}{became}"
        before = after
        for record in step.applied:
            name = "" if record["name"] == step.name else f"{record['slot']} {record['name']} "
            params = json.dumps(plain(record["params"]))
            if name or params != "{}":
                yield f"      {name}{params}"
    if not is_augmented:
        yield "  and delivered so: there is no transform; --pipeline gives one"
    elif not explanation.steps:
        yield f"  augmented, by a transform that cannot be looked into: {_size(explanation.after)}"


def _size(sample: Mapping[str, Any]) -> str:
    """The image of a sample in a few words: 200 x 160 uint8."""
    image: Any = sample.get("image")
    if not looks_like_a_picture(image):
        return "no image" if image is None else f"an image that is no picture, but {_kind(image)}"
    return f"{size_of(sample)} {str(image.dtype).removeprefix('torch.')}"


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


def register_preview(subparsers: Any) -> None:
    """Add the command `preview`."""
    parser = add_command(subparsers, "preview")
    add_shards(parser)
    add_stream_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("preview.html"), help="a .png or .html (default preview.html)"
    )
    parser.add_argument("--samples", type=int, default=24, help="how many samples (default 24)")
    parser.add_argument("--epochs", type=int, default=4, help="how many epochs of each (default 4)")
    parser.set_defaults(run=_run_preview)


def _run_preview(parsed: argparse.Namespace) -> int:
    if parsed.out.suffix not in {".png", ".html"}:
        msg = f"--out must end in .png or .html, got {str(parsed.out)!r}"
        raise RecipeError(msg)
    if parsed.samples < 1 or parsed.epochs < 1:
        msg = f"--samples and --epochs must be at least 1, got {parsed.samples} and {parsed.epochs}"
        raise RecipeError(msg)
    check_outputs(parsed.out)
    dataset = make_dataset(parsed)
    chosen = choose(dataset, parsed.samples)
    failed: list[tuple[str, Exception | None]] = []

    def note(explanation: Explanation) -> None:
        failed.append((explanation.address, explanation.error))

    if parsed.out.suffix == ".png":
        parsed.out.write_bytes(encoded(contact_sheet(dataset, chosen, range(parsed.epochs), failed=note)))
    else:
        places = [Place(epoch, shard, key) for epoch in range(parsed.epochs) for shard, key in chosen]
        write_page(dataset, places, parsed.out, note)
    say(
        f"wrote {parsed.out}: {len(chosen)} samples, {parsed.epochs} epoch{'' if parsed.epochs == 1 else 's'}"
    )
    if failed:
        address, error = failed[0]
        say(
            f"{len(failed)} of {len(chosen) * parsed.epochs} failed, the first by {type(error).__name__}: {error}"
        )
        say(f"to see it: augstream replay '{address}' SHARDS --pipeline ...")
    return 1 if failed else 0
