"The loop: loss, weights, schedule, Mixup, guards, findings, resume, and one run through papermill."
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from crosssuck import train as t
from crosssuck.core import LossConfig, OptimConfig, RunFolder, UserError, config_dict, load_config, make_config, open_run, read_json, sha256_file, write_json
from crosssuck.inputs import FrameCache, load_events, train_batches
from crosssuck.metrics import VAL_EPOCHS, epoch_scores, read_val_epochs
from crosssuck.model import build_model, input_spec, load_checkpoint, predict
from crosssuck.simulation import tiny_study


def config(experiment="t", **sections):
    study = tiny_study()
    facts = {"data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv"), "simulated": True},
             "window": {"num_frames": 4, "sample_fps": 5.0, "views": 1}, "geometry": {"policy": "squash", "size_px": 32},
             "augment": {"trivial": False, "mixup_alpha": 0.4}, "model": {"backbone": "r2plus1d_tiny", "weights": "none", "head_dropout": 0.5},
             "loader": {"workers": 0, "cache_mb": 100}, "loss": {"label_smoothing": 0.05},
             "optim": {"lr": 2e-3, "epochs": 2, "batch_size": 4, "warmup_epochs": 1, "warmup_lr": 1e-3, "cosine_epochs": 4}}
    return make_config({"experiment": experiment, **{k: {**facts.get(k, {}), **sections.get(k, {})} for k in {**facts, **sections}}})


def begin(folder, cfg=None, seed=0):
    cfg = cfg or config()
    return cfg, open_run(folder, cfg, seed, resume=True)


pytestmark = pytest.mark.usefixtures("one_thread")


# ---- loss and weights

def by_hand(logits, target, gamma, weights):
    "The formula once more, number by number."
    out = []
    for z, q in zip(logits.tolist(), target.tolist(), strict=True):
        p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        out.append(sum(-q[c] * weights[c] * (1 - p[c]) ** gamma * math.log(p[c]) for c in (0, 1)))
    return out


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.62)])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_focal_loss_equals_a_plain_rederivation_on_soft_targets(gamma, weights, alpha):
    torch.manual_seed(0)
    _, target = t.mix(torch.zeros(12, 1, 1, 1, 1), torch.arange(12) % 2, alpha=alpha, smoothing=0.1)
    logits = torch.randn(12, 2) * 3
    assert np.allclose(t.focal_loss(logits, target, gamma=gamma, weights=torch.tensor(weights)).numpy(), by_hand(logits, target, gamma, weights), atol=1e-5)


def test_without_focus_it_is_the_cross_entropy():
    logits, target, w = torch.randn(9, 2), t.soft_targets(torch.arange(9) % 2, 0.1), torch.tensor([1.0, 2.62])
    assert torch.allclose(t.focal_loss(logits, target, gamma=0.0, weights=w), torch.nn.functional.cross_entropy(logits, target, weight=w, reduction="none"), atol=1e-6)


def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses():
    logits, a, b = torch.randn(5, 2), t.soft_targets(torch.zeros(5, dtype=torch.long)), t.soft_targets(torch.ones(5, dtype=torch.long))
    mixed = t.focal_loss(logits, 0.3 * a + 0.7 * b, gamma=2.0)
    assert torch.allclose(mixed, 0.3 * t.focal_loss(logits, a, gamma=2.0) + 0.7 * t.focal_loss(logits, b, gamma=2.0), atol=1e-6)


def test_a_class_weight_stays_out_of_the_focusing_term():
    logits, tail = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    plain, weighted = (t.focal_loss(logits, tail, gamma=2.0, weights=torch.tensor([1.0, w])).item() for w in (1.0, 6.85))
    assert weighted == pytest.approx(6.85 * plain)
    ce = 6.85 * torch.nn.functional.cross_entropy(logits, torch.tensor([1])).item()
    old = (1 - math.exp(-ce)) ** 2 * ce      # E1's: p_t taken from the weighted loss
    assert old > 2 * weighted


def test_a_sure_and_wrong_answer_gives_a_finite_loss_and_gradient():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = t.focal_loss(logits, torch.tensor([[0.0, 1.0]]), gamma=2.0).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_weights_of_the_lab():
    support = {"ear": 1199, "tail": 175}
    assert t.class_weights("inv_sqrt", support)[1] == pytest.approx(2.6175, abs=1e-3)
    assert t.class_weights("inv_freq", support)[1] == pytest.approx(6.851, abs=1e-3)
    assert t.class_weights("none", support) == (1.0, 1.0) and t.class_weights((1.0, 3.0), support) == (1.0, 3.0)


@pytest.mark.parametrize(("balanced", "weights", "gamma", "oversampled"), list(itertools.product([False, True], ["none", "inv_sqrt"], [0.0, 2.0], [False, True])))
def test_three_corrections_are_refused(balanced, weights, gamma, oversampled):
    loss = LossConfig(focal_gamma=gamma, class_weights=weights, balanced_sampling=balanced)
    n = balanced + (weights != "none") + (gamma > 0) + oversampled
    support = {"ear": 1199, "tail": 175}
    if n > 2:
        with pytest.raises(UserError, match=f"{n} corrections of the imbalance at once"):
            t.corrections(loss, support, oversampled)
    sentence = t.corrections(replace(loss, allow_stacked=True), support, oversampled)
    ratio = (1 if balanced else 1199 / 175) / (2.6175 if weights == "inv_sqrt" else 1)
    assert f"the loss sees {ratio:.2f}" in sentence and ("balanced sampling" in sentence) == balanced and ("focal" in sentence) == (gamma > 0)


# ---- schedule and Mixup

E1 = OptimConfig(lr=2e-5, epochs=50, batch_size=16, warmup_epochs=5, warmup_lr=5e-7, cosine_epochs=50, lr_floor=5e-7)


@pytest.mark.lab
def test_the_schedule_is_the_labs(lab, root):
    rates = read_json(lab / "E1" / "training_history.json")["lr"]
    for optim in (E1, load_config(root / "configs" / "train_binary_v4_mvit_isaac.yaml").optim):
        assert len(rates) == 18 and np.allclose([t.learning_rate(optim, e) for e in range(1, 19)], rates, rtol=1e-12, atol=0)


def test_every_config_of_the_lab_can_be_trained(root):
    files = sorted((root / "configs").glob("train_*.yaml"))
    assert len(files) >= 8
    for file in files:
        cfg = load_config(file)
        spec = input_spec(cfg)
        assert (spec.num_frames, spec.size_px) == (16, 224) and not any("random weights" in n for n in t.input_notes(cfg))
        t.corrections(cfg.loss, {"ear": 1199, "tail": 175}, oversampled="boosted" in file.stem)
        assert t.learning_rate(cfg.optim, cfg.optim.epochs) == pytest.approx(cfg.optim.lr_floor) or cfg.optim.epochs < cfg.optim.cosine_epochs


def test_the_schedule_is_torchs():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=E1.lr)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, E1.warmup_lr / E1.lr, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 45, eta_min=E1.lr_floor)
    both = torch.optim.lr_scheduler.SequentialLR(optimiser, [warm, cosine], [5])
    for e in range(50):
        assert t.learning_rate(E1, e) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6)
        optimiser.step()
        both.step()


def test_no_warm_up_starts_at_the_full_rate_and_the_floor_holds():
    plain = OptimConfig(lr=1e-4, epochs=30, batch_size=4, cosine_epochs=20, lr_floor=1e-6)
    assert t.learning_rate(plain, 0) == 1e-4 and t.learning_rate(plain, 20) == pytest.approx(1e-6) == t.learning_rate(plain, 29)
    with pytest.raises(UserError, match="cosine_epochs is 5, the warm-up takes 5"):
        t.learning_rate(replace(E1, cosine_epochs=5), 6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_focal_and_smoothing_equal_a_plain_rederivation(smoothing):
    "From the drawn proportion and order alone: pictures, targets, and the loss of the whole step."
    rng, labels = np.random.default_rng(0), torch.tensor([0, 1, 1, 0, 1, 0])
    video, logits = torch.from_numpy(rng.normal(size=(6, 3, 2, 4, 4))).float(), torch.from_numpy(rng.normal(size=(6, 2))).float()
    torch.manual_seed(7)
    order = torch.randperm(6)
    share = float(torch._sample_dirichlet(torch.tensor([0.4, 0.4]))[0])
    torch.manual_seed(7)
    mixed, target = t.mix(video, labels, alpha=0.4, smoothing=smoothing)
    pairs = [(order[k], order[k - 1]) for k in range(6)]
    for k, (a, b) in enumerate(pairs):
        assert torch.allclose(mixed[k], share * video[a] + (1 - share) * video[b], atol=1e-5)
        hot = [share * (labels[a] == c) + (1 - share) * (labels[b] == c) for c in (0, 1)]
        wanted = [(1 - smoothing) * float(h) + smoothing / 2 for h in hot]
        assert target[k].tolist() == pytest.approx(wanted, abs=1e-6)
    ours = t.focal_loss(logits, target, gamma=2.0, weights=torch.tensor([1.0, 2.62]))
    assert ours.tolist() == pytest.approx(by_hand(logits, target, 2.0, (1.0, 2.62)), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_picture_and_label_alike(seed):
    torch.manual_seed(seed)
    labels = torch.arange(16) % 2
    video = labels.float().view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4).contiguous()
    mixed, target = t.mix(video, labels, alpha=0.4, smoothing=0.0)
    assert torch.allclose(mixed.mean((1, 2, 3, 4)), target[:, 1], atol=1e-6) and type(mixed) is torch.Tensor
    assert torch.allclose(target.sum(1), torch.ones(16))
    assert ((target == 0) | (target == 1)).all(1).any()     # some pairs are of one class, although neighbours never are
    _, smooth = t.mix(video, labels, alpha=0.4, smoothing=0.1)
    assert smooth.min() >= 0.05 - 1e-6


def test_without_mixup_nothing_is_touched():
    video, labels = torch.randn(4, 3, 2, 4, 4), torch.tensor([0, 1, 1, 0])
    same, target = t.mix(video, labels, alpha=0.0, smoothing=0.0)
    assert same is video and target.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]


# ---- findings and guards

def history(n=10, **lists):
    base = {"epoch": list(range(1, n + 1)), "lr": [1e-4] + [1e-4 * 0.9 ** k for k in range(1, n)], "train_loss": np.linspace(0.2, 0.1, n), "val_loss": np.linspace(0.25, 0.15, n),
            "train_macro_f1": np.linspace(0.5, 0.85, n), "val_macro_f1": np.linspace(0.5, 0.8, n), "val_tail_recall": np.linspace(0.3, 0.7, n),
            "val_tail_f1": np.linspace(0.2, 0.7, n), "train_val_gap": np.full(n, 0.02), "val_n_ear": [323] * n, "val_n_tail": [38] * n, "val_predicted_tail": [40] * n,
            "overlap_share": [0.95] * n}
    return {k: [None if v is None else float(v) for v in values] for k, values in {**base, **lists}.items()}


ALARMS = {
    "warmup": {"lr": [*np.linspace(1e-5, 1e-4, 8), 9e-5, 8e-5], "val_macro_f1": [0.5, 0.6, 0.8, *[0.7] * 7]},
    "gap": {"train_val_gap": np.linspace(0, 0.3, 10)},
    "tail_recall": {"val_tail_recall": np.linspace(0.3, 0.39, 10)},
    "coverage": {"overlap_share": [0.5] * 10},
    "collapse": {"val_predicted_tail": [40, 361, *[40] * 8]},
    "at_chance": {"val_macro_f1": np.linspace(0.40, 0.47, 10)},
    "nan": {"train_loss": [0.2, None, *[0.1] * 8]},
}


def test_a_healthy_history_raises_no_guard():
    assert t.guards(history()) == []


@pytest.mark.parametrize("guard", ALARMS)
def test_each_guard_speaks_of_its_fault_alone(guard):
    raised = t.guards(history(**ALARMS[guard]))
    assert [g["guard"] for g in raised] == [guard] and raised[0]["sentence"].endswith(".") and set(raised[0]) == {"epoch", "guard", "sentence"}


def test_an_all_tail_collapse_is_named_with_its_epoch():
    g = t.guards(history(val_predicted_tail=[40, 361, *[40] * 8]))[0]
    assert g["epoch"] == 2 and "called tail at epoch 2, one class alone in 1 of 10" in g["sentence"]


def test_the_gap_is_of_like_with_like_where_it_was_measured():
    fair = history(train_val_gap=np.full(10, 0.4), train_eval_macro_f1=np.linspace(0.5, 0.8, 10))
    assert "gap" not in {g["guard"] for g in t.guards(fair)}
    assert any("fixed part of the training split" in s for s in t.findings(fair))


@pytest.mark.parametrize(("select_by", "key", "chance"), [("roc_auc", "val_roc_auc", 0.5), ("average_precision", "val_average_precision", 38 / 361), ("f1_tail", "val_tail_f1", 0.19)])
def test_at_chance_for_every_selecting_metric(select_by, key, chance):
    below, above = (history(**{key: np.full(10, chance + d)}) for d in (-0.01, 0.2))
    assert "at_chance" in {g["guard"] for g in t.guards(below, select_by)}
    assert "at_chance" not in {g["guard"] for g in t.guards(above, select_by)}


def test_the_warm_up_is_told_from_the_rates():
    for warm in (0, 1, 5, 10):
        optim = OptimConfig(lr=2e-5, epochs=10, batch_size=4, warmup_epochs=warm, warmup_lr=1e-7, cosine_epochs=20)
        ours = history(lr=[t.learning_rate(optim, e) for e in range(1, 11)], lr_used=[t.learning_rate(optim, e) for e in range(10)])
        assert t.warmup_epochs(ours) == warm


def test_the_first_of_equal_epochs_is_best_and_a_missing_score_never():
    assert t.best_epoch(history(val_macro_f1=[None, 0.6, 0.7, 0.7, *[0.5] * 6])) == 2


def test_a_blind_guess_follows_the_hypergeometric_law():
    from scipy.stats import hypergeom
    mean, sd = t.blind_guess(323, 38, 48)
    assert (mean, sd) == pytest.approx((hypergeom(361, 38, 48).mean(), hypergeom(361, 38, 48).std()))


@pytest.mark.lab
def test_the_labs_own_history(lab, tmp_path):
    e1 = t.read_history(lab / "E1" / "training_history.json")
    said = " ".join(t.findings(e1, {"ear": 323, "tail": 38}))
    for words in ("Best epoch by macro_f1: 3 of 18, with 0.538, inside the warm-up of 5 epochs, trained at 8.3e-06",
                  "0.538, is above the trivial classifiers (always ear 0.472",
                  "it found 8 of 38 tail events by calling 48 tail, where a blind guess finds 5.1 ± 2.0, and this is the best of 18 epochs",
                  "peaks at 0.237 (epoch 2) and falls to 0.026 (epoch 8); after that it is at most 0.158: it stays under 0.40",
                  "opens at epoch 5", "0.314 at the end and at most 0.341 (epoch 17",
                  "first exceeds training loss at epoch 15"):      # the report says: around epoch 12
        assert words in said, words
    assert {g["guard"] for g in t.guards(e1)} == {"warmup", "tail_recall", "gap"}
    facts = t.curves(lab / "E1" / "training_history.json", tmp_path)
    page = (tmp_path / "curves.html").read_text()
    assert (facts["best_epoch"], facts["warmup_epochs"], facts["epochs"]) == (3, 5, 18) == tuple(read_json(tmp_path / "curves.json")[k] for k in ("best_epoch", "warmup_epochs", "epochs"))
    report = {     # what section 6 of the February report says, and what the file says
        "peaks at 0.538 at epoch 3": (round(max(e1["val_macro_f1"]), 3), e1["epoch"][int(np.argmax(e1["val_macro_f1"]))]) == (0.538, 3),
        "later between 0.484, epoch 8, and 0.533, epoch 18": (round(min(e1["val_macro_f1"][3:]), 3), round(max(e1["val_macro_f1"][4:]), 3), int(np.argmin(e1["val_macro_f1"][3:])) + 4,
                                                            int(np.argmax(e1["val_macro_f1"][4:])) + 5) == (0.484, 0.533, 8, 18),
        "gap 0.004 to 0.341, epoch 17": (round(e1["train_val_gap"][0], 3), round(max(e1["train_val_gap"]), 3), int(np.argmax(e1["train_val_gap"])) + 1) == (0.004, 0.341, 17),
        "tail recall 0.237, 0.026, 0.158": (round(e1["val_tail_recall"][1], 3), round(e1["val_tail_recall"][7], 3), round(max(e1["val_tail_recall"][8:]), 3)) == (0.237, 0.026, 0.158),
        "the rate after epoch 3 is 1.22e-5, the one used 8.3e-6": (round(e1["lr"][2], 8), round(e1["lr"][1], 8)) == (1.22e-5, 8.3e-6),
        "validation loss is the lower one in epochs 1 to 14": [v < w for v, w in zip(e1["val_loss"], e1["train_loss"], strict=True)] == [True] * 14 + [False] * 4,
    }
    assert all(report.values()), report
    told = t.curves(lab / "E1" / "training_history.json", tmp_path / "told", support="ear=323,tail=38")["findings"]
    tabled = t.curves(lab / "E1" / "training_history.json", tmp_path / "tabled", support=lab / "E1" / "predictions_val.csv")["findings"]
    assert told == tabled and any("a blind guess finds 5.1 ± 2.0" in s for s in told)
    assert "inside the warm-up" in page and "data:image/png" in page and str(lab) not in page and (tmp_path / "learning_curve.png").stat().st_size > 5000


@pytest.mark.parametrize(("given", "words"), [("323,38", "neither counts nor a table"), ("ear=3,tail=0", "3 ear and 0 tail events"), ("ear=3", "neither counts")])
def test_support_that_is_none_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        t.read_support(given)


def test_support_comes_as_counts_or_from_a_table(tmp_path):
    assert t.read_support(" ear=323, tail=38 ") == {"ear": 323, "tail": 38} and t.read_support(tiny_study() / "split" / "val.csv") == {"ear": 8, "tail": 4}
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    with pytest.raises(UserError, match="no column 'true_label' or 'behavior'"):
        t.read_support(path)


@pytest.mark.parametrize(("content", "words"), [
    ("[1, 2]", "no list 'epoch'"), ("{", "not valid JSON"), ({"epoch": []}, "no list 'lr'"),
    ({k: [] for k in t.LAB_KEYS}, "'epoch' is not a list of 1 numbers"),
    ({k: [1.0, 2.0] for k in t.LAB_KEYS} | {"val_loss": [1.0]}, "'val_loss' is not a list of 2 numbers"),
    ({k: [1.0] for k in t.LAB_KEYS} | {"lr": ["fast"]}, "'lr' is not a list of 1 numbers")])
def test_a_history_that_is_none_is_refused_and_nothing_written(tmp_path, content, words):
    path = tmp_path / "h.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words) as e:
        t.curves(path, tmp_path / "out")
    assert "h.json" in str(e.value) and not (tmp_path / "out").exists()


def test_the_command_takes_the_support_of_a_foreign_history(tmp_path):
    from typer.testing import CliRunner

    from crosssuck.cli import app
    foreign = {k: v for k, v in history().items() if k in t.LAB_KEYS}
    path = write_json(tmp_path / "h.json", foreign)
    said = [CliRunner().invoke(app, ["curves", str(path), "--out", str(tmp_path / "out"), *more]).output for more in ([], ["--support", "ear=323,tail=38"])]
    assert "which no trivial classifier exceeds. Not asked: whether a blind guess comes as far" in said[0] and "give --support ear=…,tail=…" in said[0] and "--support" not in said[1]
    assert "(always ear" not in said[0] and "is above the trivial classifiers (always ear 0.472" in said[1] and "trivial classifiers" in (tmp_path / "out" / "curves.html").read_text()


def foreign(**lists):
    return {k: v for k, v in history(**lists).items() if k in t.LAB_KEYS}


LEANS = {"tail": ({"val_tail_recall": [0.4, 0.5, *[1.0] * 8], "val_macro_f1": [0.46, 0.44, *[38 / 399] * 8], "val_tail_f1": [0.2, 0.2, *[76 / 399] * 8]},
                  "Collapse: all validation events are called tail at epoch 3, one class alone in 8 of 10 epochs", True),
         "ear": ({"val_tail_recall": [0.4, *[0.0] * 9], "val_macro_f1": [0.46, *[323 / 684] * 9], "val_tail_f1": [0.2, *[0.0] * 9]},
                 "Class collapse: in 9 epochs (first: 2) tail recall is 0, and whether all events were called ear cannot be told", False)}


@pytest.mark.parametrize("side", LEANS)
def test_a_foreign_history_that_collapsed_is_called_so_without_its_support(side, tmp_path):
    "As E1b's: tail recall 1 from epoch 3 on."
    lists, words, proven = LEANS[side]
    facts = t.curves(write_json(tmp_path / "h.json", foreign(**lists)), tmp_path / "out")
    said = " ".join(facts["findings"])
    assert words in said and ("collapse" in {a["guard"] for a in facts["alarms"]}) == proven
    assert "Not asked: whether the best macro_f1, 0." in said and "give --support ear=…,tail=…" in said
    told = t.curves(tmp_path / "h.json", tmp_path / "told", support={"ear": 323, "tail": 38})
    assert any("all 361 validation events are called" in a["sentence"] for a in told["alarms"]) and "Not asked" not in " ".join(told["findings"])


@pytest.mark.parametrize(("select_by", "key", "beyond"), [("macro_f1", "val_macro_f1", True), ("roc_auc", "val_roc_auc", True), ("average_precision", "val_average_precision", False), ("f1_tail", "val_tail_f1", False)])
def test_what_is_said_of_chance_without_support_is_true_of_any_support(select_by, key, beyond):
    past = [t.Past(history(**{key: np.full(10, score)}), None, select_by) for score in (0.5, 0.51)]
    for p in past:
        del p.history["val_n_ear"]
    said = [t.about_chance(p).sentence for p in past]
    assert all("give --support ear=…,tail=…" in s for s in said) and ["which no trivial classifier exceeds" in s for s in said] == [False, beyond]
    floors = [max(t.trivial_floor(e, n, select_by).values()) for e in (1, 2, 7, 40, 323) for n in (1, 2, 7, 40, 323)]
    assert (max(floors) <= 0.5) == beyond


def test_a_healthy_foreign_history_has_no_alarm():
    assert t.guards(foreign()) == []


def test_events_called_tail_are_told_from_a_foreign_history_even_where_none_was_found():
    "Counts made up, their scores computed by scikit-learn, the counts asked back."
    from sklearn.metrics import f1_score, recall_score
    y, rng, lists, counts = np.repeat([0, 1], [50, 9]), np.random.default_rng(0), {"val_tail_recall": [], "val_tail_f1": [], "val_macro_f1": []}, []
    for wrong, right in [(0, 0), (1, 0), (17, 0), (50, 0), (50, 9), (0, 9), (*rng.integers(0, 50, 1), 4)]:
        call = np.r_[np.arange(50) < wrong, np.arange(9) < right].astype(int)
        counts.append(int(call.sum()))
        lists["val_tail_recall"].append(recall_score(y, call))
        lists["val_tail_f1"].append(f1_score(y, call, zero_division=0))
        lists["val_macro_f1"].append(f1_score(y, call, average="macro", zero_division=0))
    assert t.called_tail({"epoch": list(range(7)), **lists}, {"ear": 50, "tail": 9}).tolist() == counts


def test_curves_of_a_run_knows_its_selection_and_that_it_is_simulated(tmp_path):
    cfg, run = begin(tmp_path, config(optim={"select_by": "roc_auc"}))
    write_json(run / "training_history.json", history(val_roc_auc=np.linspace(0.9, 0.6, 10)))
    assert t.curves(run / "training_history.json", tmp_path / "out")["best_epoch"] == 1
    assert "nothing about calves" in (tmp_path / "out" / "curves.html").read_text()


# ---- the loop

@pytest.fixture(scope="module", autouse=True)
def clips_decoded_once():
    "Let the runs of this module share the frames they decode."
    known, load = {}, t.load_events

    def remembered(cfg, part, *, spec):
        key = (part, spec, *(repr(getattr(cfg, s)) for s in ("data", "window", "geometry", "augment", "loss")))
        return known[key] if key in known else known.setdefault(key, load(cfg, part, spec=spec))
    t.load_events = remembered
    yield
    t.load_events = load


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "Runs that nothing disturbed, by batch size and accumulation."
    done = {}

    def get(batch_size=4, accumulation=1):
        key = (batch_size, accumulation)
        if key not in done:
            cfg, run = begin(tmp_path_factory.mktemp("whole"), config(optim={"batch_size": batch_size, "accumulation": accumulation}))
            done[key] = run, t.fit(cfg, run, 0, device="cpu")
        return done[key]
    return get


@pytest.fixture
def whole(undisturbed):
    return undisturbed()


def weights(run, name="last.ckpt"):
    return torch.load(run / name, weights_only=True)["model"]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


def timeless(history):
    return {k: v for k, v in history.items() if k != "seconds"}


def test_a_run_leaves_its_files(whole):
    run, h = whole
    assert {p.name for p in run.path.iterdir()} == {"best.ckpt", "last.ckpt", "training_history.json", VAL_EPOCHS, "label_map.json", "manifests_used.txt", "provenance.json", "config.yaml", "status.json"}
    assert read_json(run / "label_map.json") == {"ear": 0, "tail": 1}
    used = (run / "manifests_used.txt").read_text()
    assert sha256_file(tiny_study() / "split" / "train.csv") in used and sha256_file(tiny_study() / "split" / "val.csv") in used and str(tiny_study()) not in used
    facts = read_json(run / "provenance.json")
    assert facts["training"]["support"] == {"train": {"ear": 16, "tail": 8}, "val": {"ear": 8, "tail": 4}} and "balanced sampling" in facts["training"]["corrections"]
    assert timeless(t.read_history(run / "training_history.json")) == timeless(h)


def test_the_history_has_the_labs_keys_and_ours(whole):
    _, h = whole
    assert list(h) == [*t.LAB_KEYS, *t.OWN_KEYS, "guards"] and all(len(v) == 2 for k, v in h.items() if k != "guards")
    assert h["overlap_share"] == pytest.approx([(a + b) / 2 for a, b in zip(h["overlap_ear"], h["overlap_tail"], strict=True)])    # as many of each were drawn
    assert (h["drawn_ear"], h["drawn_tail"]) == ([12, 12], [12, 12]) and (h["val_n_ear"][0], h["val_n_tail"][0]) == (8, 4)
    assert h["lr_used"] == pytest.approx([1e-3, 2e-3]) and h["lr"] == pytest.approx([2e-3, t.learning_rate(config().optim, 2)])
    assert h["train_val_gap"] == pytest.approx(np.subtract(h["train_macro_f1"], h["val_macro_f1"])) and min(h["overlap_share"]) > 0.8


def test_the_best_checkpoint_is_the_best_epoch_and_scores_as_the_history_says(whole):
    run, h = whole
    model, cfg, facts = load_checkpoint(run / "best.ckpt")
    k = t.best_epoch(h)
    assert facts["epoch"] == h["epoch"][k] and facts["score"] == h["val_macro_f1"][k] and "optimiser" not in facts
    val = load_events(cfg, "val", spec=input_spec(cfg))
    table = predict(model, t.eval_batches(val, cfg), val)
    assert t.all_metrics(table.true_label == "tail", table.prob_tail)["macro_f1"] == pytest.approx(h["val_macro_f1"][k])


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole, tmp_path):
    run, h = whole
    for seed in (0, 1):
        cfg, again = begin(tmp_path, seed=seed)
        torch.rand(seed + 3)      # what was drawn before must not matter
        before = torch.random.get_rng_state()
        twin = t.fit(cfg, again, seed, device="cpu")
        assert torch.equal(before, torch.random.get_rng_state())
        assert same(weights(run), weights(again)) == (seed == 0) == (timeless(twin) == timeless(h))


@pytest.mark.parametrize(("stop_after", "name", "accumulation"), [(1, "SIGTERM", 1), (5, "SIGUSR1", 2), (6, "SIGINT", 1), (8, "SIGTERM", 2)])
def test_a_signal_saves_and_the_resumed_run_is_the_same_bit_for_bit(stop_after, name, accumulation, undisturbed, tmp_path, monkeypatch):
    batch_size = 4 // accumulation      # six steps an epoch
    cfg, torn = begin(tmp_path, config(optim={"batch_size": batch_size, "accumulation": accumulation}))
    steps, step = itertools.count(1), t.train_step

    def with_signal(loop, group):
        step(loop, group)
        if next(steps) == stop_after:
            os.kill(os.getpid(), getattr(signal, name))
    monkeypatch.setattr(t, "train_step", with_signal)
    handlers = [signal.getsignal(getattr(signal, n)) for n in ("SIGTERM", "SIGUSR1", "SIGINT")]
    where = f"epoch 0, batch {6 * accumulation}, before its evaluation;" if stop_after == 6 else f"epoch {stop_after // 6}, batch {stop_after % 6 * accumulation};"
    with pytest.raises(t.Requeue, match=f"{name} came: saved after {where}") as e:
        t.fit(cfg, torn, 0, device="cpu")
    assert e.value.exit_code == 75 and handlers == [signal.getsignal(getattr(signal, n)) for n in ("SIGTERM", "SIGUSR1", "SIGINT")]
    monkeypatch.undo()
    run, h = undisturbed(batch_size, accumulation)
    assert timeless(t.fit(cfg, torn, 0, device="cpu")) == timeless(h)
    for file in ("last.ckpt", "best.ckpt"):
        assert same(weights(torn, file), weights(run, file))


@pytest.mark.parametrize("at", [1, 4, 7, 9, 12])
def test_a_kill_without_warning_goes_on_from_the_last_epoch(whole, tmp_path, monkeypatch, at):
    run, h = whole
    cfg, killed = begin(tmp_path)
    steps, step = itertools.count(1), t.train_step

    def killing(loop, group):
        if next(steps) == at:
            raise SystemError("killed")
        step(loop, group)
    monkeypatch.setattr(t, "train_step", killing)
    with pytest.raises(SystemError):
        t.fit(cfg, killed, 0, device="cpu")
    monkeypatch.undo()
    assert timeless(t.fit(cfg, killed, 0, device="cpu")) == timeless(h) and same(weights(killed), weights(run))


AVERAGED = {"ema": 0.9, "batch_size": 4}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    cfg, run = begin(tmp_path_factory.mktemp("averaged"), config(optim=AVERAGED))
    return run, t.fit(cfg, run, 0, device="cpu")


def disturb_evaluation(monkeypatch, nth, at, what):
    "Let something happen while batch `at` of evaluation `nth` is scored (1 and 2: validation and the fixed part, after epoch 1); count the batches that are scored."
    evaluations, scored, batches_of = itertools.count(1), [], t.eval_batches

    def with_event(*args, **kwargs):
        mine = next(evaluations)

        def batches():
            for k, batch in enumerate(batches_of(*args, **kwargs), 1):
                scored.append((mine, k))
                if (mine, k) == (nth, at):
                    what()
                yield batch
        return batches()
    monkeypatch.setattr(t, "eval_batches", with_event)
    return scored


@pytest.mark.parametrize(("nth", "at", "name"), [(1, 1, "SIGTERM"), (1, 3, "SIGUSR1"), (2, 2, "SIGTERM"), (3, 2, "SIGINT"), (4, 1, "SIGUSR1")])
def test_a_signal_inside_an_evaluation_leaves_it_at_once_and_loses_nothing(averaged, tmp_path, monkeypatch, nth, at, name):
    cfg, torn = begin(tmp_path, config(optim=AVERAGED))
    scored = disturb_evaluation(monkeypatch, nth, at, lambda: os.kill(os.getpid(), getattr(signal, name)))
    before, epoch = torch.random.get_rng_state(), (nth - 1) // 2
    with pytest.raises(t.Requeue, match=f"{name} came: saved after epoch {epoch}, batch 6, before its evaluation; start the run again"):
        t.fit(cfg, torn, 0, device="cpu")
    assert scored[-1] == (nth, at) and torch.equal(before, torch.random.get_rng_state())      # not one batch more
    saved = torch.load(torn / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["step"], len(saved["seen"]["loss"])) == (epoch, 6, 24) and (torn / "training_history.json").exists() == bool(epoch)
    monkeypatch.undo()
    steps, step = [], t.train_step
    monkeypatch.setattr(t, "train_step", lambda loop, group: (steps.append(loop.epoch), step(loop, group)))
    run, h = averaged
    assert timeless(t.fit(cfg, torn, 0, device="cpu")) == timeless(h) and steps == [1] * 6 * (1 - epoch)      # the epoch is scored, not trained again
    for file in ("last.ckpt", "best.ckpt"):
        assert same(weights(torn, file), weights(run, file))
    assert same(*(torch.load(r / "last.ckpt", weights_only=True)["ema"] for r in (torn, run)))


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch, pytest, test_train as s
torch.set_num_threads(1)
cfg, run = s.begin({folder!r}, s.config(optim=s.AVERAGED))
s.disturb_evaluation(pytest.MonkeyPatch(), {nth}, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
s.t.fit(cfg, run, 0, device="cpu")
"""


def test_a_kill_inside_an_evaluation_loses_the_evaluation_alone(averaged, tmp_path, monkeypatch):
    "SIGKILL, twice, in processes of their own: in validation after epoch 1, then in the fixed part after epoch 2."
    cfg, run = config(optim=AVERAGED), None
    for nth, epoch in ((1, 0), (4, 1)):
        done = subprocess.run([sys.executable, "-c", KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path), nth=nth)], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        run = RunFolder(tmp_path / cfg.experiment / "s0")
        saved = torch.load(run / "last.ckpt", weights_only=True)
        assert (saved["epoch"], saved["step"]) == (epoch, 6)
    monkeypatch.setattr(t, "train_step", None)      # nothing is left to train
    assert timeless(t.fit(cfg, run, 0, device="cpu")) == timeless(averaged[1])
    assert all(same(weights(run, file), weights(averaged[0], file)) for file in ("last.ckpt", "best.ckpt"))


def test_a_smoke_run_killed_while_it_is_scored_takes_no_step_more(tmp_path, monkeypatch):
    runs = [begin(tmp_path / name)[1] for name in ("whole", "torn")]
    t.fit(config(), runs[0], 0, device="cpu", max_steps=2)
    disturb_evaluation(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(t.Requeue, match="saved after epoch 0, batch 2;"):
        t.fit(config(), runs[1], 0, device="cpu", max_steps=2)
    monkeypatch.undo()
    assert t.fit(config(), runs[1], 0, device="cpu", max_steps=2)["drawn_ear"] == read_json(runs[0] / "training_history.json")["drawn_ear"]
    assert same(*map(weights, runs)) and torch.load(runs[1] / "last.ckpt", weights_only=True)["moves"] == 2


def test_a_signal_while_the_cache_is_filled_is_heeded_before_the_first_step(tmp_path, monkeypatch):
    cfg, run = begin(tmp_path)
    own = FrameCache(100)
    monkeypatch.setattr(t, "load_events", lambda cfg, part, *, spec: load_events(cfg, part, spec=spec, cache=own))
    monkeypatch.setattr(t, "train_step", None)
    fetched, fetch = [], FrameCache.fetch

    def signalling(self, event):
        fetched.append(event.event_idx)
        if len(fetched) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return fetch(self, event)
    monkeypatch.setattr(FrameCache, "fetch", signalling)
    with pytest.raises(t.Requeue, match="SIGTERM came: saved after epoch 0, batch 0;"):
        t.fit(cfg, run, 0, device="cpu")
    assert len(fetched) < 15 and torch.load(run / "last.ckpt", weights_only=True)["moves"] == 0      # of 24 and 12


def test_a_run_goes_on_with_the_tables_it_was_begun_with(tmp_path):
    cfg, run = begin(tmp_path)
    t.fit(cfg, run, 0, device="cpu", max_steps=1)
    notes = (run / "manifests_used.txt").read_text(encoding="utf-8")
    (run / "manifests_used.txt").write_text(re.sub(r"(val: .* sha256 )\w{4}", r"\1beef", notes), encoding="utf-8")
    with pytest.raises(UserError, match="the table 'val' differs from the one that the run was begun with"):
        t.fit(cfg, run, 0, device="cpu")


def test_the_page_of_a_curve_shows_rates_and_whole_epochs(tmp_path):
    "A rate of 4.4e-6 is no 0.0, epoch 1 is no 1.0, and the file keeps every digit."
    path = tmp_path / "training_history.json"
    n, past = 2, {k: [0.25, 0.5] for k in t.LAB_KEYS}
    path.write_text(json.dumps(past | {"epoch": [1, 2], "lr": [4.4e-6, 8.3e-6], "val_macro_f1": [0.4712345, 0.5]}))
    t.curves(path, tmp_path / "out")
    cells = re.findall("<td>(.*?)</td>", (tmp_path / "out" / "curves.html").read_text(encoding="utf-8"))
    rows = [cells[k:k + len(cells) // n] for k in (0, len(cells) // n)]
    assert [r[:2] for r in rows] == [["1", "4.4e-6"], ["2", "8.3e-6"]] and "0.471" in rows[0]


def test_a_finished_run_is_left_alone(whole):
    run, h = whole
    before = (run / "last.ckpt").read_bytes()
    assert timeless(t.fit(config(), run, 0, device="cpu")) == timeless(h) and (run / "last.ckpt").read_bytes() == before
    with pytest.raises(UserError, match="was trained with seed 0, not 1"):
        t.fit(config(), run, 1, device="cpu")
    with pytest.raises(UserError, match="last.ckpt: was trained with another config"):
        t.fit(config(optim={"epochs": 3}), run, 0, device="cpu")


def quiet_mvit(monkeypatch):
    "The small MViT without stochastic depth: no batch statistics, nothing left to chance in the model."
    from torchvision.ops import StochasticDepth
    monkeypatch.setattr(StochasticDepth, "forward", lambda self, x: x)
    return {"backbone": "mvit_tiny", "head_dropout": 0.0}


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_accumulation_equals_the_whole_batch(tmp_path, monkeypatch, batch_size, accumulation, alpha):
    "A real step of the loop, Mixup included: the gradients of the parts add up to that of the whole."
    gradients, losses = [], []
    for size, times in ((batch_size * accumulation, 1), (batch_size, accumulation)):
        cfg, run = begin(tmp_path, config(f"b{size}", model=quiet_mvit(monkeypatch), augment={"mixup_alpha": alpha}, optim={"batch_size": size, "accumulation": times, "grad_clip": 1e9},
                                          loss={"balanced_sampling": False}))
        loop = t.start_loop(cfg, run, 0, "cpu")
        loop.optimiser.step = lambda: None
        group = list(itertools.islice(train_batches(loop.train, cfg, 0, 1), times))
        t.train_step(loop, group)
        gradients.append([p.grad.clone() for p in loop.model.parameters() if p.grad is not None])
        losses.append(loop.seen["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and len(losses[0]) == batch_size * accumulation
    assert all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(*gradients, strict=True))
    assert max(float(g.abs().max()) for g in gradients[0]) > 1e-3


def test_batch_statistics_are_where_accumulation_differs(tmp_path):
    "What `run_notes` says of them is true."
    gradients = []
    for size, times in ((8, 1), (4, 2)):
        cfg, run = begin(tmp_path, config(f"b{size}", model={"head_dropout": 0.0}, augment={"mixup_alpha": 0.0}, optim={"batch_size": size, "accumulation": times, "grad_clip": 1e9}))
        loop = t.start_loop(cfg, run, 0, "cpu")
        loop.optimiser.step = lambda: None
        t.train_step(loop, list(itertools.islice(train_batches(loop.train, cfg, 0, 1), times)))
        gradients.append(torch.cat([p.grad.flatten() for p in loop.model.parameters()]))
    assert not torch.allclose(*gradients, atol=1e-4)


# ---- what a fault costs

def made_up(cost, seeds=3, n_bouts=40, scatter=0.0, rng=None):
    "Predictions of a model without and with a fault; other seeds scatter the fault's strength."
    rng = np.random.default_rng(0) if rng is None else rng
    is_tail = np.arange(3 * n_bouts) % 3 == 0
    events = pd.DataFrame({"event_idx": np.arange(3 * n_bouts), "true_label": np.where(is_tail, "tail", "ear"), "bout_id": np.arange(3 * n_bouts) // 3})
    base = rng.normal(0, 1, 3 * n_bouts)

    def table(gain):
        return events.assign(prob_tail=1 / (1 + np.exp(-gain * is_tail - base - rng.normal(0, 0.3, len(base)))))
    return {"none": [table(1.5) for _ in range(seeds)], "two_geometries": [table(1.5 - cost - scatter * rng.normal()) for _ in range(seeds)]}


@pytest.mark.parametrize("scatter", [0.0, 0.4, 1.0])
def test_three_seeds_widen_a_cost_by_students_t(scatter):
    from scipy.stats import t as student
    row = t.fault_costs(made_up(0.5, scatter=scatter), n_boot=500).loc["two_geometries"]
    half = student.ppf(0.975, 2) * np.std(row.seeds, ddof=1) / math.sqrt(3)
    assert row.cost == pytest.approx(np.mean(row.seeds), abs=1e-4) and row.low <= row.cost - half + 1e-3 and row.high >= row.cost + half - 1e-3
    alone = t.fault_costs({k: v * 3 for k, v in made_up(0.5, seeds=1).items()}, n_boot=500).loc["two_geometries"]      # the same seed three times: bouts alone
    once = t.fault_costs(made_up(0.5, seeds=1), n_boot=500).loc["two_geometries"]
    assert (alone.low, alone.high) == pytest.approx((once.low, once.high))


def test_the_interval_of_a_cost_covers_the_cost():
    "Eighty studies of three seeds; the truth is the mean of many seeds on many bouts. (Percentiles over three resampled seeds cover 0.79 of them.)"
    from sklearn.metrics import roc_auc_score
    many = made_up(0.6, seeds=200, n_bouts=300, scatter=0.6, rng=np.random.default_rng(1))
    truth = np.subtract(*(np.mean([roc_auc_score(x.true_label == "tail", x.prob_tail) for x in many[k]]) for k in ("two_geometries", "none")))
    rows = [t.fault_costs(made_up(0.6, scatter=0.6, rng=np.random.default_rng(100 + k)), n_boot=200).iloc[0] for k in range(80)]
    covered = np.mean([r.low <= truth <= r.high for r in rows])
    assert covered > 0.88, covered


def test_too_few_bouts_give_a_cost_no_interval():
    row = t.fault_costs(made_up(0.5, n_bouts=7), n_boot=100).iloc[0]
    assert np.isfinite(row.cost) and np.isnan(row.low) and np.isnan(row.high)
    figure = t.cost_figure(row.to_frame().T.rename_axis("fault"))
    assert "too few bouts" in figure.axes[0].texts[0].get_text()


# ---- memory that runs out

class SmallDevice:
    "A device that holds so many clips, from some call on."
    def __init__(self, model, holds, first=1):
        self.model, self.holds, self.first, self.calls, self.sizes = model, holds, first, 0, []

    def __call__(self, video):
        self.calls += 1
        self.sizes.append(len(video))
        if len(video) > self.holds and self.calls >= self.first:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(video)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(tmp_path, monkeypatch, capsys):
    "The step that ran out takes the same clips and gives the gradient that it would have given; the run says so and goes on."
    weights_after, pulls = [], {}
    for holds in (99, 2):
        cfg, run = begin(tmp_path, config(f"h{holds}", model=quiet_mvit(monkeypatch), optim={"batch_size": 8, "grad_clip": 1e9}))
        loop = t.start_loop(cfg, run, 0, "cpu")
        loop.forward = SmallDevice(loop.model, holds)
        move = loop.optimiser.step

        def step(loop=loop, move=move, pulls=pulls):
            pulls.setdefault(loop.config.experiment, torch.cat([p.grad.flatten() for p in loop.model.parameters() if p.grad is not None]))      # of the first step
            move()
        loop.optimiser.step = step
        assert t.train_epoch(loop)
        weights_after.append({k: v.clone() for k, v in loop.model.state_dict().items()})
    assert torch.allclose(pulls["h99"], pulls["h2"], atol=1e-6, rtol=1e-4) and float(pulls["h2"].abs().max()) > 1e-3
    assert all(torch.allclose(weights_after[0][k], weights_after[1][k], atol=1e-3) for k in weights_after[0])
    assert loop.micro == 2 and loop.moves == 3 and len(loop.seen["loss"]) == 24
    assert loop.forward.sizes == [8, 4, *[2] * 12]       # it does not try the larger ones again
    said = [g["sentence"] for g in loop.history["guards"]]
    printed = capsys.readouterr().out
    assert [g["guard"] for g in loop.history["guards"]] == ["memory"] * 2 and all(s in printed for s in said)
    assert said[0] == ("Out of memory at epoch 1, batch 1, with 8 clips at a time: from there on 4 at a time, accumulated over 2 instead of 1; a step still takes 8 clips.")
    t.close_epoch(loop)
    assert [g["sentence"] for g in loop.history["guards"] if g["guard"] == "memory"] == said == [s for s in t.findings(loop.history) if "memory" in s]


def test_out_of_memory_is_said_and_survives_a_resume(tmp_path, monkeypatch, capsys):
    cfg, run = begin(tmp_path, config(optim={"batch_size": 8}))
    start = t.start_loop

    def small(*args):
        loop = start(*args)
        loop.forward = SmallDevice(loop.model, 4)
        return loop
    monkeypatch.setattr(t, "start_loop", small)
    step = t.train_step

    def interrupted(loop, group):
        step(loop, group)
        if loop.moves == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(t, "train_step", interrupted)
    with pytest.raises(t.Requeue):
        t.fit(cfg, run, 0, device="cpu")
    monkeypatch.setattr(t, "train_step", step)
    assert capsys.readouterr().out.count("Out of memory at epoch 1, batch 1") == 1
    h = t.fit(cfg, run, 0, device="cpu")
    assert "Out of memory" not in capsys.readouterr().out       # it remembered
    assert [g["guard"] for g in h["guards"]].count("memory") == 1 and h["epoch"] == [1, 2]
    assert torch.load(run / "last.ckpt", weights_only=True)["micro"] == 4


def test_a_device_that_holds_not_one_clip_is_refused(tmp_path):
    cfg, run = begin(tmp_path)
    loop = t.start_loop(cfg, run, 0, "cpu")
    loop.forward = SmallDevice(loop.model, 0)
    with pytest.raises(UserError, match="does not hold a single clip"):
        t.train_epoch(loop)


# ---- what makes a GPU fast gives the same numbers

def trained(folder, name, **sections):
    cfg, run = begin(folder, config(name, **sections))
    return t.fit(cfg, run, 0, device="cpu"), weights(run)


def test_transforms_on_the_device_give_the_same_run(whole, tmp_path):
    h, w = trained(tmp_path, "t", loader={"transforms": "device"})
    assert timeless(h) == timeless(whole[1]) and same(w, weights(whole[0]))


def test_memory_with_the_channels_last_gives_the_same_run_to_a_rounding(whole, tmp_path):
    cfg, run = begin(tmp_path, config(optim={"channels_last": True}))
    loop = t.start_loop(cfg, run, 0, "cpu")
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in loop.model.parameters() if p.dim() == 5)
    h = t.fit(cfg, run, 0, device="cpu")
    assert h["train_loss"] == pytest.approx(whole[1]["train_loss"], abs=2e-3)


def test_a_compiled_model_gives_the_same_run_to_a_rounding(whole, tmp_path, monkeypatch):
    compiled, compile_ = [], torch.compile

    def without_a_compiler(model):
        compiled.append(model)
        return compile_(model, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    h, w = trained(tmp_path, "t", optim={"compile": True})
    assert len(compiled) == 1 and h["train_loss"] == pytest.approx(whole[1]["train_loss"], abs=2e-3) and w.keys() == weights(whole[0]).keys()


# ---- an average of the weights

def test_ema_is_the_plain_average_and_is_what_is_scored(tmp_path, monkeypatch):
    cfg, run = begin(tmp_path, config(optim={"ema": 0.8}))
    moving, average, step = [], {}, t.train_step

    def following(loop, group):
        step(loop, group)
        for k, v in loop.model.named_parameters():
            average[k] = v.detach().clone() if k not in average else 0.8 * average[k] + 0.2 * v.detach()
        moving.append(loop)
    monkeypatch.setattr(t, "train_step", following)
    h = t.fit(cfg, run, 0, device="cpu")
    loop = moving[-1]
    ours = dict(loop.ema.module.named_parameters())
    assert all(torch.allclose(ours[k], v, atol=1e-6) for k, v in average.items())
    assert any(not torch.allclose(ours[k], v, atol=1e-4) for k, v in loop.model.named_parameters())
    val = load_events(cfg, "val", spec=input_spec(cfg))
    assert t.all_metrics(val.label == 1, predict(loop.ema.module, t.eval_batches(val, cfg), val).prob_tail)["macro_f1"] == pytest.approx(h["val_macro_f1"][-1])
    assert any("average of the weights that forgets with 0.8" in n for n in read_json(run / "provenance.json")["training"]["notes"])
    with pytest.raises(UserError, match="optim.ema: is 1.5"):
        t.start_loop(config(optim={"ema": 1.5}), run, 0, "cpu")


def test_a_resumed_average_is_the_same_bit_for_bit(tmp_path, monkeypatch):
    cfg = config(optim={"ema": 0.9})
    runs = [open_run(tmp_path / name, cfg, 0) for name in ("whole", "torn")]
    t.fit(cfg, runs[0], 0, device="cpu")
    step = t.train_step

    def with_signal(loop, group):
        step(loop, group)
        if loop.moves == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
    monkeypatch.setattr(t, "train_step", with_signal)
    with pytest.raises(t.Requeue):
        t.fit(cfg, runs[1], 0, device="cpu")
    monkeypatch.undo()
    t.fit(cfg, runs[1], 0, device="cpu")
    a, b = (torch.load(r / "last.ckpt", weights_only=True)["ema"] for r in runs)
    assert same(a, b) and same(weights(runs[0], "best.ckpt"), weights(runs[1], "best.ckpt"))


def test_there_is_no_average_unless_asked_for(whole):
    assert torch.load(whole[0] / "last.ckpt", weights_only=True)["ema"] is None


# ---- every config of the design runs

@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", [p.stem for p in sorted((Path(__file__).parents[1] / "configs").glob("train_*.yaml"))])
def test_every_config_runs_unchanged_but_for_paths(root, tmp_path, monkeypatch, name):
    "Frames, pixels, batch, accumulation, workers, loss, Mixup, schedule: all as in the file; only the network is a stub, since a CPU has to do it."
    from crosssuck import model

    def stub(spec):
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d((2, 2, 2)), torch.nn.Flatten(), torch.nn.Linear(24, 8))
        net.width = 8
        return net
    study = shutil.copytree(tiny_study(), tmp_path / "study")
    there = load_config(root / "configs" / f"{name}.yaml").data
    facts = read_json(study / "split" / "split.json")
    write_json(study / "split" / "split.json", {**facts, "scheme": there.scheme, "counts": {}})
    clips = study / "clips" / "clips.csv"
    if "roi" in name:       # the tiny study has proxies only: let them be their own source
        import pandas as pd
        table = pd.read_csv(clips, dtype=str, keep_default_na=False)
        table[["source_width_px", "source_height_px"]] = table[["clip_width_px", "clip_height_px"]].to_numpy()
        table.to_csv(clips, index=False)
        boxes = pd.read_csv(study / "boxes.csv")
        boxes[["x_px", "y_px", "w_px", "h_px"]] /= 4
        boxes.to_csv(study / "boxes.csv", index=False)
    paths = [f"data.split_dir={study / 'split'}", f"data.clips={clips}", f"loader.disk_dir={tmp_path / 'cache'}"] + ([f"data.boxes={study / 'boxes.csv'}"] if there.boxes else [])
    cfg = load_config(root / "configs" / f"{name}.yaml", paths)
    known = model.BACKBONES[cfg.model.backbone]
    monkeypatch.setitem(model.BACKBONES, cfg.model.backbone, replace(known, make=stub, head="", stages=()))
    monkeypatch.setattr(model, "find_weights", lambda name: tmp_path / "stub.pth")
    torch.save(stub(None).state_dict(), tmp_path / "stub.pth")
    if cfg.model.init_from:
        one = load_config(root / "configs" / f"{cfg.model.init_from}.yaml", paths)
        t.fit(one, open_run(tmp_path / "runs", one, 0), 0, device="cpu", max_steps=1)
    run = open_run(tmp_path / "runs", cfg, 0)
    h = t.fit(cfg, run, 0, device="cpu", max_steps=1)
    drawn = h["drawn_ear"][0] + h["drawn_tail"][0]
    assert drawn == min(cfg.optim.batch_size * cfg.optim.accumulation, 24) and h["lr_used"][0] == pytest.approx(cfg.optim.warmup_lr if cfg.optim.warmup_epochs else cfg.optim.lr)
    assert list(h) == [*t.LAB_KEYS, *t.OWN_KEYS, "guards"] and (run / "best.ckpt").exists() and h["val_n_ear"] == [8]


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(tmp_path, monkeypatch):
    cfg, run = begin(tmp_path)
    losses, focal = itertools.count(1), t.focal_loss
    monkeypatch.setattr(t, "focal_loss", lambda *a, **k: focal(*a, **k) * (float("nan") if next(losses) == 9 else 1))   # batch 2 of epoch 2
    with pytest.raises(UserError, match="epoch 2, batch 2: the loss is not a number; lower optim.lr"):
        t.fit(cfg, run, 0, device="cpu")
    guard = t.read_history(run / "training_history.json")["guards"][-1]
    assert (guard["guard"], guard["epoch"]) == ("nan", 2)
    assert all(torch.isfinite(v).all() for v in weights(run).values()) and torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 1


def test_patience_and_the_steps_of_a_smoke_run(tmp_path, monkeypatch):
    cfg, run = begin(tmp_path, config(optim={"epochs": 9, "patience": 2, "cosine_epochs": 9}))
    score = t.point_metrics
    monkeypatch.setattr(t, "point_metrics", lambda *a: {**score(*a), "macro_f1": 0.5})
    assert t.fit(cfg, run, 0, device="cpu")["epoch"] == [1, 2, 3]
    monkeypatch.undo()
    cfg, smoke = begin(tmp_path / "smoke", config(optim={"epochs": 9, "cosine_epochs": 9}))
    h = t.fit(cfg, smoke, 0, device="cpu", max_steps=2)
    assert h["epoch"] == [1] and h["drawn_ear"][0] + h["drawn_tail"][0] == 8 and (smoke / "best.ckpt").exists()


def test_the_test_split_is_never_read(tmp_path):
    shutil.copytree(tiny_study(), tmp_path / "study")
    for f in (tmp_path / "study").rglob("test_ood.csv"):
        f.unlink()
    there = {"split_dir": str(tmp_path / "study" / "split"), "clips": str(tmp_path / "study" / "clips" / "clips.csv")}
    cfg, run = begin(tmp_path, config(data=there))
    assert t.fit(cfg, run, 0, device="cpu", max_steps=1)["epoch"] == [1]


def test_a_validation_split_that_leaks_or_repeats_is_refused():
    spec = input_spec(config())
    train, val = (load_events(config(), part, spec=spec) for part in ("train", "val"))
    with pytest.raises(UserError, match=rf"event {train.event_idx[3]} is in training and in validation \(1 events are\)"):
        t.check_sides(train, replace(val, events=[*val.events, train.events[3]]))
    with pytest.raises(UserError, match=r"val.csv: event \d+ stands in it more than once \(2 repeats\)"):
        t.check_sides(train, val.subset([0, 0, 1, 1]))
    with pytest.raises(UserError, match="val.csv: has 8 ear and 0 tail events"):
        t.check_sides(train, val.subset(np.flatnonzero(val.label == 0)))


def test_the_fixed_part_is_fixed_and_has_the_counts_of_validation():
    train = load_events(config(), "train", spec=input_spec(config()))
    a, b = (t.fixed_part(train, {"ear": 5, "tail": 3}) for _ in range(2))
    assert a.event_idx.tolist() == b.event_idx.tolist() and np.bincount(a.label).tolist() == [5, 3]
    repeated = train.subset([*range(len(train)), *range(len(train))])
    part = t.fixed_part(repeated, {"ear": 100, "tail": 100})
    assert len(set(part.event_idx)) == len(part) == len(train)


def test_what_accumulation_cannot_equal_is_said_aloud(monkeypatch):
    two = config(optim={"accumulation": 2})
    assert any("r2plus1d_tiny has batch statistics, dropout: 2 batches of 4 are not exactly one of 8" in n for n in t.run_notes(two, build_model(two)))
    shaky = config(optim={"accumulation": 2}, model={"backbone": "mvit_tiny"})
    assert any("mvit_tiny has dropout, stochastic depth" in n for n in t.run_notes(shaky, build_model(shaky)))
    frozen = config(optim={"accumulation": 2}, model={"freeze": "backbone", "head_dropout": 0.0})
    assert not any("statistics" in n for n in t.run_notes(frozen, build_model(frozen)))
    assert t.run_notes(config(), build_model(config())) == []


def test_class_weights_come_from_the_training_split(tmp_path):
    cfg, run = begin(tmp_path, config(loss={"class_weights": "inv_freq", "balanced_sampling": False}))
    assert t.start_loop(cfg, run, 0, "cpu").weights.tolist() == [1.0, 2.0]      # 16 ear, 8 tail
    with pytest.raises(UserError, match="3 corrections"):
        t.start_loop(config(loss={"class_weights": "inv_freq"}), run, 0, "cpu")


def test_stage_two_starts_from_the_best_weights_of_stage_one(tmp_path):
    one, run_one = begin(tmp_path, config("stage_1", model={"freeze": "backbone"}))
    two, run_two = begin(tmp_path, config("stage_2", model={"init_from": "stage_1"}))
    with pytest.raises(UserError, match="no stage_1/s0/best.ckpt to start from"):
        t.start_loop(two, run_two, 0, "cpu")
    with pytest.raises(KeyError, match="fold"):      # a folder that does not say its fold is not taken to have none
        t.earlier_weights(two, RunFolder(tmp_path / "stage_2" / "s9"))
    t.fit(one, run_one, 0, device="cpu", max_steps=2)
    torch.manual_seed(0)
    untouched = build_model(one).state_dict()
    best = weights(run_one, "best.ckpt")
    assert same({k: v for k, v in untouched.items() if k.startswith("backbone")}, {k: v for k, v in best.items() if k.startswith("backbone")})
    loop = t.start_loop(two, run_two, 0, "cpu")
    assert same(loop.model.state_dict(), best) and not loop.optimiser.state and all(p.requires_grad for p in loop.model.parameters())


@pytest.mark.long
@pytest.mark.parametrize(("backbone", "optim"), [("mvit_tiny", {"lr": 3e-4, "warmup_lr": 1e-5, "warmup_epochs": 5}), ("r2plus1d_tiny", {"lr": 1e-3, "warmup_lr": 1e-4})])
def test_a_small_network_learns_what_can_be_learnt_by_heart(tmp_path, backbone, optim):
    cfg, run = begin(tmp_path, config(model={"backbone": backbone, "head_dropout": 0.0}, augment={"mixup_alpha": 0.0, "hflip": 0.0}, loss={"label_smoothing": 0.0, "focal_gamma": 0.0},
                                      optim={"epochs": 30, "cosine_epochs": 30, **optim}))
    assert max(t.fit(cfg, run, 0, device="cpu")["train_eval_macro_f1"]) > 0.9


def test_an_older_torch_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(t, "need_torch", lambda: (_ for _ in ()).throw(UserError("torch 2.1.2 is too old, 2.4 is needed")))
    with pytest.raises(UserError, match="too old"):
        t.fit(config(), RunFolder(tmp_path / "r"), 0)
    assert not (tmp_path / "r").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_trains_in_mixed_precision(tmp_path):
    cfg, run = begin(tmp_path)
    h = t.fit(cfg, run, 0, device="cuda")
    assert h["epoch"] == [1, 2] and np.isfinite(h["train_loss"]).all() and "float16" in read_json(run / "provenance.json")["training"]["machine"]


# ---- the notebook

def run_part(path: Path, out: Path) -> Path:
    "Keep the part *Run* of a notebook, as the launcher does."
    nb = json.loads(path.read_text())
    start = next(i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "markdown" and "".join(c["source"]).startswith("# Run"))
    nb["cells"] = nb["cells"][start:]
    out.write_text(json.dumps(nb))
    return out


def test_the_notebook_runs_through_papermill(tmp_path, root, monkeypatch):
    import papermill
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(t.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    cfg, run = begin(tmp_path)
    papermill.execute_notebook(str(run_part(root / "nbs" / "06_train.ipynb", tmp_path / "part.ipynb")), str(run / "06_train.ipynb"), kernel_name="python3", progress_bar=False,
                               parameters={"experiment": "t", "seed": 0, "run_dir": str(run.path), "smoke": True}, cwd=str(tmp_path))
    text = (run / "06_train.ipynb").read_text()
    assert (run / "best.ckpt").exists() and len(read_json(run / "training_history.json")["epoch"]) == 1
    for words in ("nothing about calves", "the loss sees", "Best epoch by macro_f1", "image/png", "lr 0.002; epochs 2", "leak"):
        assert words in text, words
    assert config_dict(cfg) == config_dict(load_checkpoint(run / "best.ckpt")[1])


@pytest.mark.parametrize("name", ["04a_inputs", "06_train"])
def test_no_output_of_a_lesson_is_heavy(root, name):
    "A notebook is read and compared as text: film pictures are kept as JPEG."
    cells = json.loads((root / "nbs" / f"{name}.ipynb").read_text())["cells"]
    weights_kb = [len(json.dumps(c["outputs"])) / 1e3 for c in cells if c["cell_type"] == "code"]
    assert 10 < max(weights_kb) < 80, max(weights_kb)


def test_the_notebook_has_one_cell_of_parameters_and_runs_only_marked_cells(root):
    cells = json.loads((root / "nbs" / "06_train.ipynb").read_text())["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    start = next(i for i, c in enumerate(cells) if "".join(c["source"]).startswith("# Run"))
    assert all("".join(c["source"]).startswith("#| run") for c in cells[start:] if c["cell_type"] == "code")
    assert not any("".join(c["source"]).startswith("#| run") for c in cells[:start])


# ---- the predictions of every epoch

def test_the_stored_epochs_give_the_scores_of_the_history_and_of_the_selected_epoch(whole):
    run, h = whole
    events, epochs, probs = read_val_epochs(run / VAL_EPOCHS)
    y = (events.true_label == "tail").to_numpy()
    assert epochs == h["epoch"] and len(events) == 12 and (events.bout_id != "").all()
    for by, key in t.SELECTED.items():      # bit for bit: the selection that is repeated is that of the training
        scores = epoch_scores(y[None], probs, by)[0]
        assert scores.tolist() == h[key] and int(scores.argmax()) == t.best_epoch(h, by)
    model, cfg, _ = load_checkpoint(run / "best.ckpt")
    val = load_events(cfg, "val", spec=input_spec(cfg))
    table = predict(model, t.eval_batches(val, cfg), val)
    assert table.event_idx.tolist() == events.event_idx.tolist()
    assert np.allclose(table.prob_tail, probs[t.best_epoch(h)], atol=1e-6)


def test_the_table_of_the_evaluation_is_that_of_the_selected_epoch(whole, tmp_path):
    from crosssuck.eval import evaluate_run
    run, h = whole
    shutil.copytree(run.path, tmp_path / "t" / "s0")
    copy = RunFolder(tmp_path / "t" / "s0")
    facts = evaluate_run(copy, device="cpu", n_boot=20, n_perm=20)
    events, _, probs = read_val_epochs(copy / VAL_EPOCHS)
    table = pd.read_csv(copy / "predictions_agg.csv").set_index("event_idx").loc[events.event_idx]
    assert np.allclose(table.prob_tail, probs[t.best_epoch(h)], atol=1e-6)
    record = read_json(copy / "metrics" / "metrics.json")["selection"]
    assert (record["epochs"], record["select_by"]) == (2, "macro_f1") and "fewer than 8" in record["note"]   # 12 events: too few bouts
    assert facts["test"][1]["selection"] is None


def test_a_resumed_run_keeps_the_same_epochs_and_cuts_off_what_it_trains_again(whole, tmp_path):
    "Killed after epoch 2 was written, before the checkpoint knew of it: the column is replaced."
    run, _ = whole
    cfg, torn = begin(tmp_path)
    loop = t.start_loop(cfg, torn, 0, device="cpu")
    with torch.random.fork_rng():
        t.train_epoch(loop)
        t.save_loop(loop)
        t.close_epoch(loop)
        first = (torn / VAL_EPOCHS).read_bytes()
    loop.epoch = 1
    wrong = t.predict(loop.model, t.eval_batches(loop.val, cfg), loop.val)
    t.keep_predictions(loop, wrong.assign(prob_tail=0.123))
    loop.epoch = 5
    t.keep_predictions(loop, wrong.assign(prob_tail=0.123))
    again = t.load_loop(t.start_loop(cfg, torn, 0, device="cpu"))
    assert again.epoch == 1 and (torn / VAL_EPOCHS).read_bytes() == first
    loop.epoch = 1
    t.keep_predictions(loop, wrong.assign(prob_tail=0.123))
    t.fit(cfg, torn, 0, device="cpu")
    assert (torn / VAL_EPOCHS).read_bytes() == (run / VAL_EPOCHS).read_bytes()


def test_stored_epochs_of_other_events_are_refused(whole, tmp_path):
    run, _ = whole
    shutil.copytree(run.path, tmp_path / "s0")
    table = pd.read_csv(tmp_path / "s0" / VAL_EPOCHS, dtype=str)
    table.iloc[::-1].to_csv(tmp_path / "s0" / VAL_EPOCHS, index=False)
    with pytest.raises(UserError, match=r"val_epochs\.csv: holds other events than the validation split"):
        t.load_loop(t.start_loop(config(), RunFolder(tmp_path / "s0"), 0, device="cpu"))


def test_the_hash_of_the_stored_epochs_is_in_done(whole, tmp_path):
    run, _ = whole
    shutil.copytree(run.path, tmp_path / "s0")
    copy = RunFolder(tmp_path / "s0")
    copy.finish()
    assert read_json(copy / "DONE")[VAL_EPOCHS] == sha256_file(copy / VAL_EPOCHS)


def chosen_run(folder, n_epochs=18, stored=True):
    "A run of 361 events without skill: its history and its stored epochs."
    import studies
    rng = np.random.default_rng(4)
    y, bout = studies.labels(studies.VALIDATION, rng)
    probs = studies.epochs(y, bout, 0.5, rng, n_epochs)
    scores = {k: epoch_scores(y[None], probs, by)[0] for by, k in t.SELECTED.items()}
    cfg, run = begin(folder)
    write_json(run / "training_history.json", history(n_epochs, **scores))
    if stored:
        table = pd.DataFrame({"event_idx": np.arange(len(y)), "true_label": np.where(y, "tail", "ear"), "bout_id": [f"b{b}" for b in bout]})
        table.assign(**{f"epoch_{k + 1}": p for k, p in enumerate(probs)}).to_csv(run / VAL_EPOCHS, index=False)
    return run


def test_curves_say_what_the_selection_adds(tmp_path):
    run = chosen_run(tmp_path)
    facts = t.curves(run / "training_history.json", tmp_path / "out")
    record, said = facts["selection"], " ".join(facts["findings"])
    assert record["epochs"] == 18 and record["selected_epoch"] == facts["best_epoch"] and record["p_value"]["macro_f1"] > 0.025
    assert "The macro F1 of the selected epoch is the best of 18 evaluations on the same validation events, so it is too high." in said
    assert f"a model without skill reaches {record['chance']['macro_f1']['mean']:.3f} on average and more than {record['chance']['macro_f1']['high']:.3f} in 2.5 % of cases" in said
    assert "selection" in {a["guard"] for a in facts["alarms"]} and "best of 18 evaluations" in (tmp_path / "out" / "curves.html").read_text()


def test_curves_of_an_old_run_say_that_the_optimism_cannot_be_computed(tmp_path):
    run = chosen_run(tmp_path, stored=False)
    facts = t.curves(run / "training_history.json", tmp_path / "out")
    assert facts["selection"]["epochs"] == 18 and facts["selection"]["chance"] == {} == facts["selection"]["p_value"]
    assert any("best of 18 evaluations on the same validation events, so it is too high; the validation predictions of every epoch were not stored" in s for s in facts["findings"])
    one = history(1)
    assert not any("selected epoch" in s for s in t.findings(one))


# ---- class collapse

def test_a_tail_recall_of_0_with_events_called_tail_is_no_collapse(tmp_path):
    lists = {"val_tail_recall": [0.5, *[0.0] * 9], "val_tail_f1": [0.3, *[0.0] * 9], "val_macro_f1": [0.6, *[322 / 683] * 9]}
    called = history(**lists, val_predicted_tail=[40, *[1] * 9])
    assert "collapse" not in {g["guard"] for g in t.guards(called)}
    assert "collapse" not in {a.guard for a in t.answers(foreign(**lists), {"ear": 323, "tail": 38}) if a.alarm}
    unknown = [a for a in t.answers(foreign(**lists)) if a.guard == "collapse"]
    assert [a.alarm for a in unknown] == [False] and "cannot be told; give --support" in unknown[0].sentence
