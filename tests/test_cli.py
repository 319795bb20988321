"""The commands, as a person types them."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from runs import settings

from mmcredit.cli import main


def mmcredit(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "mmcredit.cli", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
    )


def test_methods_lists_and_prints_a_page():
    table = mmcredit("methods")
    assert table.returncode == 0, table.stderr
    for name in ("grpo", "dr_grpo", "token_mean", "exact_answer", "easy_vqa"):
        assert name in table.stdout
    page = mmcredit("methods", "grpo")
    assert page.returncode == 0
    for part in ("A_{i,t} = (R_i - mean_g R)", "arXiv 2402.03300", "ddof = 1"):
        assert part in page.stdout
    wrong = mmcredit("methods", "grpoo")
    assert wrong.returncode == 2
    assert "did you mean 'grpo'?" in wrong.stderr


def test_train_resume_report_check_and_evaluate(tmp_path):
    values = settings(tmp_path, data__evaluate={"easy_vqa": {"split": "test", "limit": 5}}, checkpoint__final=True)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    first = mmcredit("train", str(config), "run.steps=2")
    assert first.returncode == 0, first.stderr
    for part in ("held-out accuracy", "gain (paired)", "report:", "training proper took"):
        assert part in first.stdout
    assert (tmp_path / "run" / "report.html").is_file()
    again = mmcredit("train", str(config), "run.steps=2")
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    longer = mmcredit("train", str(config), "--resume", "run.steps=3")
    assert longer.returncode == 0, longer.stderr
    steps = [json.loads(x)["step"] for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]

    found = mmcredit("check", str(config), "--samples", "5")
    assert found.returncode == 0, found.stderr
    for part in ("5 of 5", "prompt tokens", "as the model reads it", "an ideal response", "memory at most", "total"):
        assert part in found.stdout
    answers = tmp_path / "answers.jsonl"
    model = str(tmp_path / "run" / "model")
    scored = mmcredit("evaluate", str(config), "--model", model, "--output", str(answers))
    assert scored.returncode == 0, scored.stderr
    assert "accuracy" in scored.stdout
    assert len(answers.read_text().splitlines()) == 5


def test_contact_sheet_of_corruptions(tmp_path):
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").resize((96, 64)).save(tmp_path / "image.png")
    result = mmcredit("corruptions", str(tmp_path / "image.png"), "-o", str(tmp_path / "sheet.png"))
    assert result.returncode == 0, result.stderr
    assert min(Image.open(tmp_path / "sheet.png").size) > 300
    assert mmcredit("corruptions", str(tmp_path / "none.png")).returncode in (1, 2)


def test_mistakes_end_in_one_line(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path)))
    for words, part in (
        (["train", "no_such_config"], "no config 'no_such_config'"),
        (["train", str(config), "--method", "no_such_recipe"], "no config 'no_such_recipe'"),
        (["train", str(config), "train.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["train", str(config), "model.path=builtin:nothing"], "builtin:nothing"),
        (["report", str(tmp_path / "nowhere")], "nowhere"),
        (["methods", "--plugin", str(tmp_path / "no.py")], "no such file"),
    ):
        result = mmcredit(*words)
        assert result.returncode == 2, (words, result.stderr)
        assert part in result.stderr, (words, result.stderr)
        assert result.stderr.startswith("mmcredit: error: ")
        assert "Traceback" not in result.stderr


def test_a_word_that_is_no_command_and_no_word_at_all(capsys):
    assert main(["trian", "easy_vqa"]) == 2
    assert capsys.readouterr().err == "mmcredit: error: no command 'trian'; did you mean 'train'?\n"
    assert main([]) == 2
    assert "first steps:" in capsys.readouterr().err


def test_a_list_is_asked_for_by_an_example(capsys):
    assert main(["train", "easy_vqa", "credit=pgpo", "--dry-run"]) == 2
    assert "credit: a list is wanted, such as [pgpo], got 'pgpo'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "easy_vqa"], "interrupted; go on with --resume"),
        (["audit", "easy_vqa"], "interrupted; the same command goes on from here"),
        (["methods"], "interrupted\n"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(words, said, capsys, monkeypatch):
    from mmcredit import commands, look

    def stop(*_):
        raise KeyboardInterrupt

    for module in (commands, look):
        if hasattr(module, words[0]):
            monkeypatch.setattr(module, words[0], stop)
    assert main(words) == 130
    assert said in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_made_is_said_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "easy_vqa", f"run.dir={tmp_path}/file/run"]) == 2
    assert f"run.dir {tmp_path}/file/run cannot be used: Not a directory" in capsys.readouterr().err
