"""The commands `replay` and `preview`: look at one sample, or at many."""

from __future__ import annotations

import argparse
import code
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from ..dataset import StreamDataset
from ..errors import RecipeError
from ..images.encoded import DecodeMode
from ..seeding import Address
from ..transforms.serialization import load
from .explain import Explanation, explain_address
from .pictures import encoded
from .preview import Place, choose, contact_sheet, stages_sheet, write_page

_PIPELINE = "a saved Compose (.json, .yaml), or module:name of a transform or of a function that makes one"


def load_pipeline(text: str) -> Any:
    """The pipeline that a command line names: a file saved by `augstream.save`, or ``module:name``.

    A file is data, and runs no code. ``module:name`` imports the module, as it says. Raises `RecipeError` for a file or
    name that is not there.
    """
    path = Path(text)
    if path.suffix in {".json", ".yaml", ".yml"}:
        return load(str(path), data_format="json" if path.suffix == ".json" else "yaml")
    module_name, colon, name = text.partition(":")
    if not colon:
        msg = f"{text!r} is no pipeline; give {_PIPELINE}"
        raise RecipeError(msg)
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        msg = f"could not get {name!r} from module {module_name!r}: {error}"
        raise RecipeError(msg) from error
    is_maker = callable(found) and not hasattr(found, "run") and not isinstance(found, type)
    if not is_maker:
        return found
    try:
        return found()
    except Exception as error:
        msg = f"{text!r} could not be made: {type(error).__name__}: {error}"
        raise RecipeError(msg) from error


def add_stream_arguments(parser: argparse.ArgumentParser, *, seed: bool) -> None:
    """Add what it takes to make a stream: the pipeline, the recipe and the fields."""
    parser.add_argument("--pipeline", metavar="FILE|MODULE:NAME", help=_PIPELINE)
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="the stream's seed (default 0)")
    parser.add_argument("--lanes", type=int, help="the stream's lanes (default 8, or 1 with --no-shuffle)")
    parser.add_argument("--no-shuffle", action="store_true", help="the stream was made with shuffle=False")
    parser.add_argument(
        "--scope", default="shard,worker,epoch", help="the stream's scope (default shard,worker,epoch)"
    )
    parser.add_argument(
        "--fields", type=json.loads, metavar="JSON", help='the stream\'s fields, {"image": "jpg;png"} say'
    )


def make_dataset(
    parsed: argparse.Namespace, seed: int, *, batch_size: int = 1, decode: DecodeMode = "region"
) -> StreamDataset:
    """The stream that a command line describes."""
    return StreamDataset(
        parsed.shards,
        None if parsed.pipeline is None else load_pipeline(parsed.pipeline),
        batch_size=batch_size,
        seed=seed,
        lanes=parsed.lanes,
        shuffle=not parsed.no_shuffle,
        scope=tuple(parsed.scope.split(",")),
        fields=parsed.fields,
        decode=decode,
    )


def register_replay(subparsers: Any) -> None:
    """Add the command `replay`."""
    parser = subparsers.add_parser(
        "replay", help="compute one sample again, from its address, stage by stage"
    )
    parser.add_argument("address", help="the address that an error or a batch's __address__ shows")
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="the shards of the stream")
    add_stream_arguments(parser, seed=False)
    parser.add_argument("--picture", type=Path, metavar="PNG", help="write a picture after every transform")
    parser.add_argument("--json", type=Path, help="write gates and drawn parameters")
    parser.add_argument("--interactive", action="store_true", help="open a Python prompt with `explanation`")
    parser.set_defaults(run=_run_replay)


def _run_replay(parsed: argparse.Namespace) -> int:
    address = Address.parse(parsed.address)
    dataset = make_dataset(parsed, address.seed)
    explanation = explain_address(dataset, address)
    _print_steps(explanation)
    if parsed.picture is not None:
        parsed.picture.write_bytes(encoded(stages_sheet(dataset, explanation)))
        print(f"wrote {parsed.picture}")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(explanation.to_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {parsed.json}")
    if parsed.interactive:
        code.interact(
            banner="explanation.before, explanation.steps, explanation.after",
            local={"explanation": explanation, "dataset": dataset},
            exitmsg="",
        )
    return 0


def _print_steps(explanation: Explanation) -> None:
    print(explanation.address)
    for step in explanation.steps:
        verdict = "applied" if step.applied else "not applied"
        print(f"  {step.slot} {step.name}: {verdict} (drew {step.gate:.6f}, p={step.p:g})")
        for record in step.applied:
            print(f"      {record['name']} {json.dumps(record['params'])}")


def register_preview(subparsers: Any) -> None:
    """Add the command `preview`."""
    parser = subparsers.add_parser(
        "preview", help="a contact sheet (.png) or a page to browse (.html) of samples"
    )
    parser.add_argument("shards", nargs="+", metavar="SHARDS", help="the shards of the stream")
    add_stream_arguments(parser, seed=True)
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
    dataset = make_dataset(parsed, parsed.seed)
    chosen = choose(dataset, parsed.samples)
    if parsed.out.suffix == ".png":
        parsed.out.write_bytes(encoded(contact_sheet(dataset, chosen, range(parsed.epochs))))
    else:
        places = [Place(epoch, shard, key) for epoch in range(parsed.epochs) for shard, key in chosen]
        write_page(dataset, places, parsed.out)
    print(f"wrote {parsed.out}: {len(chosen)} samples, {parsed.epochs} epochs")
    return 0
