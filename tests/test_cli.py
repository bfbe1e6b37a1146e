"""The command line, run as a user runs it: what it prints, writes, and how it fails."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from augstream import cli
from augstream.indexing import INDEX_NAME, build_index


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


HEADLINE = "3 shards, 15 samples, 51.2 kB"


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "shards"
    directory.mkdir()
    for i in range(3):
        samples = {f"{i}-{j:02d}": {"jpg": bytes(100 + j), "cls": b"1"} for j in range(4 + i)}
        if i == 1:
            del samples["1-02"]["cls"]
            samples["1-03"]["txt"] = b"only here"
        write_shard(directory / f"train-{i}.tar", samples)
    return directory


def test_index_writes_beside_the_shards(shards, capsys):
    assert cli.main(["index", str(shards)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{HEADLINE}\nwrote {shards / INDEX_NAME}\n"
    assert err == ""
    assert build_index(shards).total == 15
    assert not Path(os.environ["XDG_CACHE_HOME"]).exists()


def test_index_to_the_cache(shards, capsys):
    assert cli.main(["index", str(shards), "--cache"]) == 0
    (path,) = (Path(os.environ["XDG_CACHE_HOME"]) / "augstream" / "index").iterdir()
    assert capsys.readouterr().out == f"{HEADLINE}\nwrote {path}\n"
    assert not (shards / INDEX_NAME).exists()
    path.unlink()
    build_index(shards, beside=True)
    assert cli.main(["index", str(shards), "--cache"]) == 0
    said = f"{shards / INDEX_NAME} says it all; nothing was written to the cache"
    assert capsys.readouterr().out == f"{HEADLINE}\n{said}\n"
    assert not path.exists()


def test_index_with_checksums_and_side_files(shards, capsys):
    files = [str(path) for path in sorted(shards.glob("*.tar"))]
    assert (
        cli.main(
            [
                "index",
                *files,
                "--checksums",
                "--emit",
                "wids",
                "info",
                "sizes",
                "dali",
                "energon",
                "--split",
                "x",
            ]
        )
        == 0
    )
    names = {path.name for path in shards.iterdir()} - {Path(file).name for file in files}
    assert names == {
        INDEX_NAME,
        "shards.json",
        "_info.json",
        "sizes.json",
        *(f"train-{i}{end}" for i in range(3) for end in (".idx", ".tar.idx")),
    }
    assert capsys.readouterr().out.count("wrote ") == len(names)
    assert build_index(shards).store.checksums
    assert json.loads((shards / "_info.json").read_text())["splits"]["x"]["num_samples"] == 15
    for start in ("shards.json", "_info.json", "sizes.json"):
        assert cli.main(["info", str(shards / start)]) == 0


def test_what_was_written_is_told_before_what_cannot_be(tmp_path, capsys):
    shard = write_shard(tmp_path / "a.tar", {"k 0": {"jpg": b""}})
    assert cli.main(["index", str(shard), "--emit", "wids", "dali", "sizes"]) == 2
    out, err = capsys.readouterr()
    assert out.endswith(f"wrote {tmp_path / INDEX_NAME}\nwrote {tmp_path / 'shards.json'}\n")
    assert "a DALI index can't tell names with spaces" in err


def test_index_where_nothing_can_be_written(shards, capsys):
    (shards / INDEX_NAME).mkdir()  # a directory in the file's place
    (shards / INDEX_NAME / "x").mkdir()
    assert cli.main(["index", str(shards)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_info_tells_what_is_missing_where(shards, capsys):
    assert cli.main(["info", str(shards)]) == 0
    out = capsys.readouterr().out
    assert "3 shards, 15 samples" in out
    assert "samples per shard: 4 to 6, median 5" in out
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if line.startswith(".")}
    assert rows == {".jpg": ["15", "0"], ".cls": ["14", "1"], ".txt": ["1", "14"]}
    assert "no .cls in: train-1.tar/1-02\n" in out
    assert (
        "no .txt in: train-0.tar/0-00, train-0.tar/0-01, train-0.tar/0-02, train-0.tar/0-03, train-1.tar/1-00, …"
        in out
    )


def test_info_as_json(shards, capsys):
    assert cli.main(["info", f"{shards}/train-{{0..1}}.tar", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["shards"], summary["samples"], summary["samples_per_shard"]) == (2, 9, [4, 5, 5])
    assert summary["members"]["cls"] == {
        "samples": 8,
        "missing": 1,
        "bytes": 8,
        "lacking": ["train-1.tar/1-02"],
    }
    assert summary["fingerprint"] == build_index(f"{shards}/train-{{0..1}}.tar").fingerprint


def test_a_changed_shard_is_said_in_a_line(shards, capsys):
    cli.main(["index", str(shards)])
    write_shard(shards / "train-0.tar", {"a": {"jpg": b""}})
    capsys.readouterr()
    assert cli.main(["info", str(shards)]) == 0
    assert capsys.readouterr().err.startswith(
        "augstream: one shard changed since the index was made, scanning again: "
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "augstream", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["info", "absent.tar"],
            "augstream: absent.tar: the shard cannot be opened: No such file or directory",
        ),
        (["info", "no-*.tar"], "augstream: no shard matches 'no-*.tar'; check the path"),
        (["info", "x.json"], "augstream: x.json: the manifest cannot be read"),
        (["index", "/dev/null"], "augstream: /dev/null: a shard must be a regular file"),
    ],
)
def test_errors_are_one_line_and_no_traceback(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent))
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (":made", "':made' is no pipeline; give a saved Compose"),
        ("broken_pipelines:", "'broken_pipelines:' is no pipeline; give a saved Compose"),
        ("broken_syntax:made", "could not get 'made' from module 'broken_syntax': SyntaxError: "),
        ("broken_import:made", "could not get 'made' from module 'broken_import': ZeroDivisionError: "),
        ("broken_script:made", "could not get 'made' from module 'broken_script': SystemExit: 5"),
        ("broken_pipelines:leaves", "'broken_pipelines:leaves' could not be made: SystemExit: 6"),
        ("broken_pipelines:forgot", "'broken_pipelines:forgot' returned None; let it return the transform"),
        ("absent.json", "absent.json: No such file or directory"),
        ("cut.json", "cut.json: the file is no JSON: "),
        ("cut.yaml", "cut.yaml: the file is no YAML: "),
        ("list.json", "list.json: not a saved pipeline: []"),
    ],
)
def test_a_pipeline_that_cannot_be_had_is_an_error_in_words(
    shards, pipeline, said, tmp_path, monkeypatch, capsys
):
    (tmp_path / "broken_syntax.py").write_text("def made(:")
    (tmp_path / "broken_import.py").write_text("1 / 0")
    (tmp_path / "broken_script.py").write_text("raise SystemExit(5)")
    (tmp_path / "broken_pipelines.py").write_text("def forgot(): pass\ndef leaves(): raise SystemExit(6)\n")
    (tmp_path / "cut.json").write_text('{"transform": ')
    (tmp_path / "cut.yaml").write_text("transform: [")
    (tmp_path / "list.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["preview", str(shards), "--pipeline", pipeline]) == 2
    out, err = capsys.readouterr()
    assert (out, err[: len(said) + 11]) == ("", f"augstream: {said}")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("image=jpg", "'image=jpg' is no JSON (Expecting value: "),
        ('{"label": {"suffixes": "cls", "kind": "text"}}', "a field needs suffixes, as in ('jpg', 'png'), "),
        ('{"label": {"suffixes": ["cls"], "kind": "word"}}', "a kind out of image, mask, int, float, text"),
        ('{"label": {"suffixes": ["cls"]}}', "missing 1 required positional argument: 'kind'"),
    ],
)
def test_fields_that_are_none_are_said_so(fields, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["preview", "x.tar", "--fields", fields])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_labels_that_are_texts_and_large_images_are_read_when_that_is_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = cv2.imencode(".png", np.zeros((50, 60, 3), np.uint8))[1].tobytes()
    write_shard(tmp_path / "a.tar", {"k": {"png": image, "cls": b"cat"}})
    assert cli.main(["preview", "a.tar"]) == 2
    said = capsys.readouterr().err
    assert "a whole number in ASCII was expected, got b'cat'; if it is meant to be a text" in said
    proposed = said.partition("--fields '")[2].partition("'")[0].replace(", ...", ', "image": "png"')
    assert cli.main(["preview", "a.tar", "--fields", proposed]) == 0
    assert '"label":"cat"' in (tmp_path / "preview.html").read_text()
    assert cli.main(["preview", "a.tar", "--fields", proposed, "--max-pixels", "2999"]) == 2
    assert "over the limit of 2999; pass a larger max_pixels" in capsys.readouterr().err
    assert cli.main(["preview", "a.tar", "--fields", proposed, "--max-pixels", "3000"]) == 0


def test_help_and_usage(capsys):
    for arguments, status, start in (
        (["--help"], 0, "usage: augstream [-h] COMMAND"),
        (["index", "--help"], 0, "usage: augstream index"),
        (["index"], 2, "usage: augstream index"),
        (["nonsense"], 2, "usage: augstream [-h] COMMAND"),
        ([], 2, "usage: augstream [-h] COMMAND"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == status
        assert "".join(capsys.readouterr()).startswith(start)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: augstream {name}" in capsys.readouterr().out


@pytest.mark.processes
def test_a_light_command_loads_no_torch():
    code = "import sys; from augstream.cli import main; main(['info', 'absent.tar']); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], timeout=60, check=False, stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )


@pytest.mark.processes
def test_a_reader_that_leaves_is_no_error(shards):
    code = "import sys; from augstream.cli import main; sys.exit(main(sys.argv[1:]))"
    command = f"{sys.executable} -c '{code}' info {shards} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("elsewhere", "status", "said"),
    [
        (">&-", 0, ""),
        (">/dev/full", 2, "augstream: No space left on device\n"),
        (">out.txt; cat out.txt >&2", 0, "no .cls in: tr\\xe4in.tar/\\u03ba\n"),
    ],
)
def test_an_output_that_is_closed_full_or_knows_no_such_letter(tmp_path, elsewhere, status, said):
    shard = write_shard(tmp_path / "träin.tar", {"κ": {"jpg": b""}, "l": {"cls": b"", "jpg": b""}})
    code = "import sys; from augstream.cli import main; sys.exit(main(sys.argv[1:]))"
    command = f"{sys.executable} -c '{code}' info '{shard.name}' {elsewhere}"
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONIOENCODING": "ascii",
            "PYTHONPATH": str(Path(cli.__file__).parent.parent),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.endswith(said)
    assert "Traceback" not in done.stderr
