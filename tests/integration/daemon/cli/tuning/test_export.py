"""Export and import: by the command line, and through the folders that the daemon watches."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest
from tests.integration.document_helpers import TARGET, World, changed, content_of, imported, serving
from tests.integration.table_helpers import Connection, enable, one, only

from vectuned.config.errors import VectunedError
from vectuned.config.settings import load_settings
from vectuned.daemon.cli.main import main
from vectuned.daemon.work.worker import Worker
from vectuned.learning.exchange import check_import_folder, export_column, prepare_export_folder


def test_export_and_import_commands_round_trip_a_document(
    world: World, here: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = ["--dsn", here.info.dsn]
    path = tmp_path / "learned.json"
    path.write_text(json.dumps(world.document))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, *dsn])
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = run("import", str(path), "--dry-run")
    assert code == 0
    assert "as it was proven" in out
    assert "k up to 10 " in out
    assert out.endswith("nothing was imported: this was a dry run\n")
    assert one(here, "SELECT count(*) FROM vectuned.bank") == 0
    code, out, _ = run("import", str(path), "items", "embedding", "--json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    assert run("import", str(path))[1].endswith("nothing changed\n")

    code, out, _ = run("export", "items", "-o", "-")
    assert code == 0
    assert content_of(json.loads(out)) == content_of(world.document)
    code, out, _ = run("export", "-o", str(tmp_path), "--json")
    (file,) = [each["file"] for each in json.loads(out)["files"]]
    assert Path(file).name.startswith(f"public.items.embedding@{here.info.dbname}.20")
    # A document that Python has parsed and written again is the same.
    path.write_text(json.dumps(json.loads(Path(file).read_text()), indent=2))
    assert run("import", str(path))[0] == 0

    path.write_text(json.dumps(changed(world.document, ("classes", 0, "k"), "ten")))
    code, out, err = run("import", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"vectuned: {path} cannot be imported: $.classes[0].k must be a whole number")
    path.write_text('{"provenance": {"schema": 5}}')
    assert run("import", str(path))[2].endswith(
        "does not name its column: name one, as in `vectuned import FILE RELATION COLUMN`.\n"
    )
    assert run("import", str(tmp_path / "none"))[0] == 2
    assert run("export", "nothing")[0] == 2
    code, _, err = run("export", "-o", str(tmp_path / "none" / "x"))
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be written: No such file or directory" in err


def test_export_column_rotates_files_and_import_reads_the_newest(
    world: World, here: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    assert export_column(here, only(here), prepare_export_folder(out), 2) is None  # nothing was learned yet
    imported(here, world.document)
    first = export_column(here, only(here), out, 2)
    assert first is not None
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert content_of(json.loads(first.read_text())) == content_of(world.document)
    assert export_column(here, only(here), out, 2) is None  # no news
    ours = f"public.items.embedding@{here.info.dbname}.{{}}.vectuned.json".format
    other = "public.items.embedding@other.20200101T000000Z.vectuned.json"
    aged = first.rename(out / ours("20260103T000000Z"))
    for name in (ours("20260101T000000Z"), ours("20260102T000000Z"), other, "notes.txt"):
        (out / name).touch()
    here.execute("UPDATE vectuned.bank SET reason = 'news'")
    second = export_column(here, only(here), out, 2)
    assert second is not None
    assert {p.name for p in out.iterdir()} == {"notes.txt", other, aged.name, second.name}

    settings_ = load_settings(
        overrides={"export.import_folder": str(out), "export.folder": str(tmp_path / "gone")}, environ={}
    )
    worker = Worker(here, settings_)
    assert worker.import_new() == 0  # its own, which it knows
    here.execute("SELECT vectuned.disable('items', 'embedding')")
    enable(here, target_recall=TARGET, sample_rate=1.0, min_samples=100)
    (out / "public.items.embedding@x.20990101T000000Z.vectuned.json").write_text("{")  # damaged, and newer
    caplog.set_level(logging.WARNING, logger="vectuned")
    with pytest.raises(VectunedError, match=r"The folder .*gone cannot be used: No such file or directory"):
        worker.export()
    assert worker.import_new() == 1
    assert "is not JSON" in caplog.text
    assert serving(here)[2]
    assert one(here, "SELECT count(*) FROM vectuned.imported") == 1
    assert worker.import_new() == 0
    out.chmod(0o777)
    with pytest.raises(VectunedError, match="Any user may write to"):
        check_import_folder(out)
    with pytest.raises(VectunedError, match="Any user may write to"):
        worker.import_new()
    assert Worker(here, load_settings(environ={})).export() == 0
