"Tables, YAML and configs that are wrong are refused in one line before any work; what is right is read as it stands."
import csv
from dataclasses import fields, is_dataclass

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crosssuck import core
from crosssuck.core import (
    RunFolder,
    UserError,
    as_block,
    load_config,
    make_config,
    nest,
    number,
    read_table,
    read_yaml,
    verify_hash,
    write_json,
    write_page,
    write_text,
)

BASE = "data: {split_dir: s, clips: c}\noptim: {lr: 0.001, epochs: 2, batch_size: 4}\n"
ROWS = ["event_idx,group,note", "0,1,ear", "1,1,", "2,4,tail"]


def fault(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as e:
        call(*args, **kwargs)
    line = str(e.value)
    assert "\n" not in line and "; " in line, line
    return line


def table(tmp_path, rows, ending="\n", encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(ending.join(rows).encode(encoding))
    return path


# ---- writes

def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch):
    import pandas as pd
    a, b, main = (tmp_path / n for n in ("a.csv", "b.csv", "main.json"))
    assert core.write_together({a: pd.DataFrame({"x": [1]}), b: pd.DataFrame({"x": [2]}), main: {"n": 1}}) == main
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert before == {"a.csv": "x\n1\n", "b.csv": "x\n2\n", "main.json": '{\n  "n": 1\n}\n'}
    real, n = core._fill, []

    def full(tmp, text):
        n.append(tmp)
        if len(n) == 2:
            raise OSError(28, "No space left on device")
        real(tmp, text)
    monkeypatch.setattr(core, "_fill", full)
    line = fault(core.write_together, {a: pd.DataFrame({"x": [3]}), b: pd.DataFrame({"x": [4]}), main: {"n": 2}})
    assert "main.json: the disk is full" in line and {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_the_file_that_vouches_for_others_is_the_first_to_go_and_the_last_to_come(tmp_path, monkeypatch):
    import os

    import pandas as pd
    files = {tmp_path / "a.csv": pd.DataFrame({"x": [1]}), tmp_path / "main.json": {"n": 1}}
    core.write_together(files)
    real, seen = os.replace, []

    def killed(tmp, path):
        seen.append((path.name, (tmp_path / "main.json").exists()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        real(tmp, path)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        core.write_together(files)
    assert seen == [("a.csv", False), ("main.json", False)] and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_that_cannot_be_written_is_named_and_not_the_hidden_one(tmp_path):
    assert f"{tmp_path}: a folder, where a file is to be written" in fault(write_text, tmp_path, "x")
    write_text(tmp_path / "file", "x")
    assert f"{tmp_path / 'file/b.txt'}: cannot be written" in fault(write_text, tmp_path / "file/b.txt", "x")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        with core.atomic_path(tmp_path / "c"):
            open(tmp_path / "elsewhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


# ---- the shape of a table


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("head, body", [("", ","), (",", ","), (",,", ",,"), (",", ""), ("", ",,,")])
def test_commas_that_excel_adds_move_no_column(tmp_path, head, body, ending):
    plain = read_table(table(tmp_path, [*ROWS, ""]))
    commas = [ROWS[0] + head, *(row + body for row in ROWS[1:]), ""]
    if (head, body) == (",", ""):
        commas[2] += ","  # in some rows only
    assert read_table(table(tmp_path, commas, ending)).equals(plain) and plain.event_idx.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize("k, row, words", [(1, "0,1,ear,7", "line 2: 4 fields, the header has 3: a comma too many"), (2, "1,1,a note, with a comma", "line 3: 4 fields"),
                                           (3, "2,4", "line 4: 2 fields, the header has 3: cut off"), (3, "2", "line 4: 1 fields"), (2, "1,1", "line 3: 2 fields"),
                                           (3, '2,4,"tail', ""), (1, '0,"1,ear', "line 2: 2 fields")])
def test_a_row_of_another_length_is_named(tmp_path, k, row, words):
    rows = [*ROWS]
    rows[k] = row
    line = fault(read_table, table(tmp_path, rows))
    assert words in line and "t.csv" in line


def test_a_table_cut_at_any_byte_of_its_last_row_but_the_last_field_is_refused(tmp_path):
    text = "\n".join(ROWS)
    for n in range(text.rindex("\n") + 2, text.rindex(",") + 1):
        assert "line 4" in fault(read_table, table(tmp_path, [text[:n]])), text[:n]


def test_a_title_that_stands_twice_is_refused(tmp_path):
    assert "line 1: two columns are called 'note'" in fault(read_table, table(tmp_path, ["event_idx,note,note", "0,a,b"]))


def test_newlines_in_quotes_and_blank_lines_are_no_faults(tmp_path):
    rows = ["event_idx,note", '0,"two\nlines, and a comma"', "", '1,"he said ""no"""', "  ", "2,"]
    t = read_table(table(tmp_path, rows))
    assert t.note.tolist() == ["two\nlines, and a comma", 'he said "no"', ""]
    trimmed = read_table(table(tmp_path, [rows[0], *(r + "," if r.strip() else r for r in rows[1:])]))
    assert trimmed.equals(t)
    assert "line 7: 3 fields" in fault(read_table, table(tmp_path, [*rows[:5], "2,a,b"]))


def test_what_csv_writes_is_read_back_as_it_was(tmp_path):
    rows = [["event_idx", "a", "b"], ["0", "x,y", ' "'], ["1", "\r\n", "é"], ["2", "", ""]]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8-sig") as f:
        csv.writer(f).writerows(rows)
    assert read_table(tmp_path / "t.csv").values.tolist() == rows[1:]


def test_bytes_that_are_no_text_and_no_table_at_all(tmp_path):
    assert "not a readable CSV" in fault(read_table, table(tmp_path, ["event_idx,note", "0,caf\xe9"], encoding="latin-1"))
    for nothing in ([""], [" "], [",,,"], ["", ""]):
        assert "not a readable CSV" in fault(read_table, table(tmp_path, nothing))


# ---- YAML


@pytest.mark.parametrize("text, words", [("optim: {lr: 1.0}\ndata: {}\noptim: {}\n", "line 3: not valid YAML (the key 'optim' stands there twice)"), ("a:\n  b: 1\n  b: 2\n", "line 3: not valid YAML (the key 'b'"),
                                         ("groups: {1: 2, 1: 3}\n", "the key '1' stands there twice"), ("a: 2024-13-45\n", "not valid YAML"), ("a: [1\n", "not valid YAML"),
                                         ("a: \x00\n", "not valid YAML"), ("? [a]\n: 1\n", "not valid YAML"), ("- a\n", "not a mapping")])
def test_yaml_that_is_wrong_is_one_line_with_its_place(tmp_path, text, words):
    line = fault(read_yaml, write_text(tmp_path / "x.yaml", text))
    assert words in line and "x.yaml" in line


def test_yaml_that_is_not_utf_8_names_the_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes("a: 1\nnote: caf\xe9\n".encode("latin-1"))
    assert "x.yaml, line 2: byte 0xe9 is no UTF-8; save the file as UTF-8" in fault(read_yaml, tmp_path / "x.yaml")


def test_keys_that_differ_or_are_merged_are_no_repeats(tmp_path):
    text = "base: &b {x: 1, y: 2}\ntop: {<<: *b, x: 3}\n1: one\n'1': text\nlist: [{x: 1}, {x: 1}]\n"
    assert read_yaml(write_text(tmp_path / "x.yaml", text)) == yaml.safe_load(text)


@pytest.mark.parametrize("item", ["optim.lr=[1", "note='", "note=2024-13-45", "optim={lr: 1, lr: 2}", "a: b=: :"])
def test_an_override_that_is_no_yaml_is_one_line(item):
    assert "--set" in fault(nest, [item]) and item in fault(nest, [item])


# ---- configs


def config(tmp_path, text, *overrides):
    return load_config(write_text(tmp_path / "mine.yaml", text), overrides)


@pytest.mark.parametrize("text, words", [("extends: [a]\n", "extends is ['a']; name one file"), ("experiment: other\n", "experiment is 'other', and the file's name says 'mine'; remove the key"),
                                         ("experiment: 7\n", "experiment is 7"), ("extends: base.yaml\n", "base.yaml: experiment is 'another'"), ("2024-01-01: x\n", "a key is no text")])
def test_what_a_file_says_of_itself(tmp_path, text, words):
    write_text(tmp_path / "base.yaml", "experiment: another\n")
    assert words in fault(config, tmp_path, BASE + text)


def test_a_name_that_is_the_files_own_is_no_fault(tmp_path):
    assert config(tmp_path, BASE + "experiment: mine\n").experiment == "mine" and config(tmp_path, BASE, "experiment=other").experiment == "other"


BOUNDS = {"window": {"num_frames": (0, -1), "sample_fps": (0, -1.0), "jitter_s": (-0.1,), "views": (0, -3)}, "geometry": {"size_px": (0, -224), "short_side_px": (0,), "roi_context": (0, -1)},
          "augment": {"colour": (-0.1, 1.1), "hflip": (-0.1, 2), "vflip": (1.5,), "rotate_deg": (-1, 181), "scale": (-0.1, 0.6), "shift": (-0.1, 0.6), "mixup_alpha": (-0.4,)},
          "model": {"head_dropout": (-0.1, 1.0), "freeze": (-1,)}, "loss": {"focal_gamma": (-2,), "label_smoothing": (-0.1, 1.0)},
          "optim": {"lr": (0, -1e-4), "epochs": (0, -1), "batch_size": (0,), "accumulation": (0,), "warmup_epochs": (-1,), "warmup_lr": (-1e-7,), "cosine_epochs": (0,), "lr_floor": (-1e-9,),
                    "weight_decay": (-0.1,), "grad_clip": (0, -1), "patience": (0, -1), "ema": (-0.1, 1, 1.5)},
          "loader": {"workers": (-1,), "cache_mb": (-1,), "disk_mb": (-1,)}, "data": {"split_seed": (-1,), "head_px": (0, -1)}}
NUMBERS = [(f"{section}.{key}", value) for section, keys in BOUNDS.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize("key, value", NUMBERS, ids=[f"{k}={v}" for k, v in NUMBERS])
def test_a_number_out_of_its_range_names_file_key_value_and_range(tmp_path, key, value):
    line = fault(config, tmp_path, BASE, f"{key}={value!r}" if not isinstance(value, float) else f"{key}={value:.12f}")
    said = float(line.split(": is ")[1].split(",")[0])
    assert f"mine.yaml, {key}: is " in line and said == value and (", not from 0 to" in line or ", not above 0" in line or " or more" in line), line


@pytest.mark.parametrize("key", sorted(f"{f.name}.{g.name}" for f in fields(core.Config) if is_dataclass(f.type) for g in fields(f.type) if "float" in str(g.type)))
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_number_of_a_config_is_infinite_or_none(tmp_path, key, value):
    text = f"[1.0, {value}]" if key == "loss.class_weights" else value
    assert key in fault(config, tmp_path, BASE, f"{key}={text}")


def test_every_number_of_a_config_has_a_range():
    free = [f"{f.name}.{g.name}" for f in fields(core.Config) if is_dataclass(f.type) for g in fields(f.type) if str(g.type) in ("<class 'int'>", "<class 'float'>", "int | None", "float | None")]
    assert not free and {k for k, _ in NUMBERS} == {f"{f.name}.{g.name}" for f in fields(core.Config) if is_dataclass(f.type) for g in fields(f.type)
                                                   if any(kind in str(g.type) for kind in ("int", "float")) and g.name != "class_weights"}


def test_what_switches_something_off_stays_legal(tmp_path):
    zero = ["augment.hflip=0", "augment.mixup_alpha=0", "augment.colour=0", "loss.focal_gamma=0", "loss.label_smoothing=0", "optim.warmup_epochs=0", "optim.ema=0", "optim.weight_decay=0",
            "optim.lr_floor=0", "loader.workers=0", "loader.cache_mb=0", "model.head_dropout=0", "model.freeze=0", "window.jitter_s=0", "optim.patience=null", "augment.hflip=1"]
    assert config(tmp_path, BASE, *zero).loader.workers == 0


@pytest.mark.parametrize("value", ["resnet", "mvit", "7", "null"])
def test_an_unknown_backbone_is_refused_before_torch_is_there(tmp_path, value):
    line = fault(config, tmp_path, BASE, f"model.backbone={value}")
    assert "mine.yaml, model.backbone: " in line and "is no backbone; choose from mvit_v2_s, " in line


def test_the_names_of_backbones_are_those_of_the_model():
    from crosssuck.model import BACKBONES
    assert tuple(BACKBONES) == core.BACKBONE_NAMES


def test_a_wrong_kind_still_says_what_was_expected():
    facts = {"experiment": "x", "data": {"split_dir": "s", "clips": "c"}, "optim": {"lr": 1e-3, "epochs": 1.5, "batch_size": 4}}
    assert "optim.epochs is 1.5: input should be" in fault(make_config, facts)
    assert "model.freeze is 'all'" in fault(make_config, facts | {"optim": {**facts["optim"], "epochs": 1}, "model": {"freeze": "all"}})
    assert "optim.epochs is 'many'" in fault(make_config, facts | {"optim": {**facts["optim"], "epochs": "many"}})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_is_shown_is_never_another_one(x):
    "To half a unit of its last digit; what is not 0 is not shown as 0, what is not 1 is not shown as 1."
    text = number(x)
    assert float(text) == pytest.approx(x, rel=5.1e-3) and (float(text) == 0) == (x == 0)
    assert x == 1 or text != "1" and text != "1.00"
    assert x != int(x) or text == str(int(x))


def test_numbers_of_a_table_keep_their_digits_and_texts_stay():
    rates = pd.DataFrame({"epoch": [1.0, 2.0], "lr": [4.4e-6, 2e-5], "val_macro_f1": [0.47831, np.nan], "n": [361, 24918], "word": ["0.00", None],
                          "any": [1.0, "0.50 (0.36 to 0.62)"], "is": [True, False]})
    block = as_block(rates)
    assert block["rows"] == [["1", "4.4e-6", "0.478", "361", "0.00", "1", True], ["2", "2e-5", "–", "24918", "", "0.50 (0.36 to 0.62)", False]]


def test_a_page_shows_learning_rates_not_zeros(tmp_path):
    html = write_page(tmp_path / "p.html", "p", [pd.DataFrame({"lr": [4.4e-6], "epoch": [1.0]})]).read_text(encoding="utf-8")
    assert "<td>4.4e-6</td><td>1</td>" in html


def test_a_file_of_a_finished_run_is_the_one_that_done_vouches_for(tmp_path):
    run = RunFolder(tmp_path / "s0")
    for name in ("best.ckpt", "metrics/metrics.json", "predictions_agg.csv"):
        write_json(run / name, {"a": 1})
        assert verify_hash(run / name) == run / name            # not finished: nothing to hold it against
    run.finish()
    write_text(run / "report.html", "changed at will")
    for name in ("best.ckpt", "metrics/metrics.json", "predictions_agg.csv", "report.html", "DONE", "status.json"):
        verify_hash(run / name)
    assert run.changed() == []
    for name in ("best.ckpt", "metrics/metrics.json", "predictions_agg.csv"):
        write_json(run / name, {"a": 2})
        with pytest.raises(UserError, match=f"{name}: its SHA-256 .* differs from the one in DONE, .*; copy it again") as e:
            verify_hash(run / name)
        assert "\n" not in str(e.value)
    assert run.changed() == ["metrics/metrics.json", "predictions_agg.csv"] and run.changed(but="x")[0] == "best.ckpt"
    (run / "predictions_agg.csv").unlink()
    verify_hash(run / "predictions_agg.csv")                    # who reads it says that there is no such file
    assert "predictions_agg.csv" in run.changed()
