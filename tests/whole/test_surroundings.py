"""Surroundings of commands: full and closed streams, no home, killed processes, odd names."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import blend
import leaderboard
import predict
import report
import run_audit
import run_cv
import run_tta
from ensemble.find import find_members
from foldblend.cli import run_command
from foldblend.drafts import draft_folder
from foldblend.errors import UserError
from foldblend.failures import memory_failure
from foldblend.files import check_writable, page_file, write_bytes
from foldblend.flags import from_settings
from foldblend.locks import hold
from foldblend.runs.folder import lock_folder, write_table
from foldblend.runs.run import Run
from folds.config import AuditConfig
from folds.data import demo
from folds.data.demo import make_demo
from pipeline.config.settings import make_config
from pipeline.export.config import ExportConfig
from pipeline.export.target import target_folder, write_folder
from pipeline.predict.answers import write_answers
from pipeline.predict.config import PredictConfig
from pipeline.predict.journal import Journal
from reports.commands import BoardConfig
from tests.makers.small_runs import LABELS, write_run
from tta.config import TtaConfig

ROOT = Path(__file__).resolve().parents[2]
NOT_UTF8 = os.fsdecode(b"r\xff")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def one_line(caught):
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a home folder, while the current folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


# Streams


@pytest.mark.parametrize("flags", [["--help"], ["outputs"]])
def test_a_full_standard_output_is_told_from_the_output_folder(flags):
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, ROOT / "leaderboard.py", *flags],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    if flags == ["--help"]:
        assert ended.stderr.startswith("error: standard output: cannot be written (No space left")


def test_what_is_said_aside_is_lost_where_standard_error_is_full(tmp_path):
    write_run(tmp_path / "a", LABELS)
    script = ROOT / "leaderboard.py"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, script, tmp_path / "a", "--no-page"],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert ended.returncode == 0
    assert "a " in ended.stdout


# Failed writes


def test_the_demo_set_names_its_folder_and_the_bytes_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_draw_all", full_disk)
    with pytest.raises(UserError) as caught:
        make_demo(tmp_path / "demo", num_train=12, num_test=6)
    message = one_line(caught)
    assert message.startswith(f"{tmp_path / 'demo'}: cannot be written (No space left on device, ")
    assert "needed, " in message
    assert [*tmp_path.iterdir()] == []


def test_a_killed_process_that_draws_images_is_named(tmp_path, monkeypatch):
    def killed(*_):
        raise demo.TerminatedWorkerError

    monkeypatch.setattr(demo, "_draw_all", killed)
    with pytest.raises(UserError, match="was killed, probably as memory ran out; run the same"):
        make_demo(tmp_path / "demo", num_train=12, num_test=6)


def test_an_exported_folder_names_its_own_path_and_not_the_draft(tmp_path):
    target = tmp_path / "timm"

    def into(_, folder, *, say):
        full_disk()

    with pytest.raises(UserError, match=f"^{target}: cannot be written"):
        write_folder(target, None, into, print)

    def refuse(_, folder, *, say):
        raise UserError(f"{folder}/a: is no model; leave it out")

    with pytest.raises(UserError, match=f"^{target}/a: is no model; leave it out$"):
        write_folder(target, None, refuse, print)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_timm_could_not_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a plain UTF-8 name; pass another folder"):
        target_folder(str(tmp_path / NOT_UTF8), flag="--timm", overwrite=False)


def test_a_journal_on_a_full_disk_names_its_file(tmp_path, monkeypatch):
    with Journal(tmp_path / "j", "key", width=3, block=2, resume=True) as journal:
        journal.add(np.ones((2, 3), np.float32), {})
        monkeypatch.setattr("pipeline.predict.journal.write_all", full_disk)
        with pytest.raises(UserError) as caught:
            journal.add(np.ones((2, 3), np.float32), {})
    assert one_line(caught).startswith(
        f"{tmp_path / 'j' / 'rows'}: cannot be written (No space left on device, 24 bytes needed, "
    )
    with Journal(tmp_path / "j", "key", width=3, block=2, resume=True) as journal:
        assert journal.done == 2


def test_a_table_on_a_full_disk_tells_the_bytes_that_it_needs(tmp_path, monkeypatch):
    table = pd.DataFrame({"logit_0": np.zeros(1000)})
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full_disk)
    with pytest.raises(UserError, match=r"No space left on device, 8 kB needed, .* free\); free"):
        write_table(tmp_path / "oof.parquet", table)


# Memory and killed processes


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate"),
        RuntimeError("can't start new thread"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        demo.TerminatedWorkerError(
            "A worker process managed by the executor was unexpectedly terminated."
        ),
    ],
)
def test_memory_that_runs_out_is_one_line_with_the_cure_of_the_command(error, capsys):
    def command():
        raise error

    assert run_command(command, spare="pass fewer --workers") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: memory: ")
    assert said.endswith("; pass fewer --workers\n")
    assert said.count("\n") == 1


def test_other_errors_are_none_of_memory():
    assert memory_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


# The home folder


def test_a_tilde_is_the_home_folder_in_every_flag_and_keyword(home):
    assert make_config({"output": "~/x"}).output.output == str(home / "x")
    assert from_settings(TtaConfig, {"run": "~/x/r"}).run == str(home / "x" / "r")
    board = from_settings(BoardConfig, {"runs": ["~/a", "b"], "page": "~/p.html"})
    assert (board.runs, board.page) == ((str(home / "a"), "b"), str(home / "p.html"))
    (home / "config.yaml").write_text("epochs: 7\n")
    assert make_config(config="~/config.yaml").train.epochs == 7


def test_commands_take_a_tilde_that_the_shell_leaves(home, capsys):
    for name in ("a", "b"):
        write_run(home / "runs" / name, LABELS)
    argv = ["~/runs/a", "~/runs/b", "--page=~/page.html", "--json=~/board.json"]
    assert leaderboard.main(argv) == 0
    assert (home / "page.html").is_file()
    assert (home / "board.json").is_file()
    assert report.main(["~/runs/a", "--no-page"]) == 0
    assert [*Path.cwd().iterdir()] == []


COMMANDS = {
    "run_cv": (run_cv.main, ["--output=~nobody/x"]),
    "run_tta": (run_tta.main, ["~nobody/x"]),
    "blend": (blend.main, ["~nobody/x"]),
    "leaderboard": (leaderboard.main, ["~nobody/x"]),
    "report": (report.main, ["~nobody/x"]),
    "predict": (predict.main, ["~nobody/x", "a.jpg"]),
    "run_audit": (run_audit.main, ["~nobody/x"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_home_of_nobody_is_one_line(name, home, capsys, monkeypatch):
    monkeypatch.setattr("pwd.getpwnam", lambda _: {}["nobody"])
    main, argv = COMMANDS[name]
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(
        "error: ~nobody/x: no such user; write the path without ~"
    )
    assert [*Path.cwd().iterdir()] == []


def test_a_folder_whose_name_starts_with_a_tilde_is_found(home, monkeypatch):
    monkeypatch.setattr("pwd.getpwnam", lambda _: {}["old"])
    Path("~old").mkdir()
    assert from_settings(TtaConfig, {"run": "~old"}).run == "~old"


# Names


def test_names_that_are_no_utf8_can_be_written(tmp_path):
    folder = tmp_path / NOT_UTF8
    table = pd.DataFrame({"image_id": ["a"], "class": ["b"]})
    write_table(folder / "t.parquet", table)
    write_answers(folder / "p.parquet", iter([table]))
    for name in ("t.parquet", "p.parquet"):
        with (folder / name).open("rb") as file:
            assert pd.read_parquet(file).equals(table)
    write_bytes(folder / "page.html", f"run {folder}")
    assert (folder / "page.html").read_text() == f"run {tmp_path}/r\\udcff"


def test_a_run_whose_folder_is_no_utf8_has_reports(tmp_path, capsys):
    folder = write_run(tmp_path / NOT_UTF8 / "a", LABELS)
    assert report.main([str(folder)]) == 0
    assert leaderboard.main([str(folder), "--page", str(tmp_path / NOT_UTF8 / "p.html")]) == 0
    assert "/r\\xff/a has no hashes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: check_writable(Path(name) / "x"),
        lambda: page_file(name, flag="--page"),
        lambda: target_folder(name, flag="--timm", overwrite=False),
    ):
        with pytest.raises(UserError) as caught:
            write()
        one_line(caught)
    if "\0" in name:
        with pytest.raises(UserError, match=r"^--output a\\x00b: has a NUL byte; correct it$"):
            make_config({"output": name})
        with pytest.raises(UserError, match=r"^--page"):
            from_settings(AuditConfig, {"page": name})


@pytest.mark.parametrize("path", ["n" * 240, f"{'n' * 256}/a", "/".join(["n" * 200] * 18)])
def test_a_path_that_is_too_long_is_found_before_the_work(path):
    for flag, settings in (
        ("--output", lambda: make_config({"output": path})),
        ("--page", lambda: BoardConfig(page=f"{path}.html")),
        ("--out", lambda: PredictConfig(run="a", images="b", out=f"{path}.csv")),
        ("--to", lambda: ExportConfig(run="a", to=path)),
    ):
        with pytest.raises(UserError, match=rf"^{flag} .{{1,40}}: is too long, .* shorter one$"):
            settings()
    with pytest.raises(UserError, match=r"--name .{1,40}: is too long; pass one of at most 239"):
        TtaConfig(run="a", name="n" * 240)


@pytest.mark.parametrize("setting", ["threads", "workers"])
def test_very_many_threads_or_workers_are_refused(setting):
    with pytest.raises(UserError, match=f"--{setting} 1000000: pass . or more, and at most 1024"):
        make_config({setting: 1_000_000})


# Leftovers


def test_what_a_killed_command_left_is_swept_from_the_folder_of_a_page(tmp_path):
    left = tmp_path / ".draft-0123abcd-page.html"
    left.write_text("half a page")
    folder = tmp_path / ".draft-0123abcd-timm"
    folder.mkdir()
    own = tmp_path / ".draft-letter.txt"
    own.write_text("no file of ours")
    alive = tmp_path / ".draft-89abcdef-other.html"
    with hold(alive), draft_folder(tmp_path / "demo") as drawn:
        page_file(tmp_path / "page.html", flag="--page")
        assert alive.is_file()
        assert drawn.is_dir()
    assert own.is_file()
    assert not left.exists()
    assert not folder.exists()
    assert not drawn.exists()


def test_whoever_locks_a_run_sweeps_it(tmp_path):
    (tmp_path / "tta").mkdir()
    left = tmp_path / "tta" / ".draft-0123abcd-oof.parquet"
    left.write_text("half a table")
    with lock_folder(tmp_path):
        assert not left.exists()


def test_cures_name_flags_that_the_command_has(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(UserError, match=r"writing this run; wait for it$"):
            lock_folder(tmp_path, flags=(None, None)).__enter__()
        with pytest.raises(UserError, match=r"wait for it or pass another --name$"):
            lock_folder(tmp_path).__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"; change its permissions$"):
        lock_folder(tmp_path / "file" / "run", flags=(None, "--name")).__enter__()


# Links


@pytest.mark.parametrize("target", ["c", "absent"])
def test_a_link_that_leads_nowhere_is_a_bad_run_and_left_out(tmp_path, capsys, target):
    runs = [str(write_run(tmp_path / name, LABELS)) for name in "ab"]
    (tmp_path / "c").symlink_to(tmp_path / target)
    assert leaderboard.main([*runs, str(tmp_path / "c"), "--no-page"]) == 0
    assert "c: is a link that leads nowhere" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"c: is a link that leads nowhere .* pass folders of fin"):
        find_members([tmp_path / "c"])
    assert leaderboard.main([*runs, str(tmp_path / "d"), "--no-page"]) == 2
    assert "d: no such run; check the path" in capsys.readouterr().err


# Blends in blends


def test_a_blend_with_the_rows_of_its_one_member_is_on_the_leaderboard(tmp_path, capsys):
    single = Run(write_run(tmp_path / "a", LABELS))
    members = [{"name": "a", "oof": single.oof_hash, "weight": 1.0, "run_key": {}}]
    one = write_run(tmp_path / "b", LABELS, kind="blend", members=members)
    own = [{**members[0], "name": "c"}]
    other = write_run(tmp_path / "c", LABELS, kind="blend", members=own)
    assert Run(one).oof_hash == single.oof_hash
    assert leaderboard.main([str(one), str(other), "--no-page"]) == 0
