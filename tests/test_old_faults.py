"""What E1 did wrong cannot come back: for each fault a check of what is *fed* to the model, which passes today and fails with the old behaviour put back.

The old behaviour comes by the key `faults` where a study may have it, and by replacing one function where it may not.
"""
import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from crosssuck import inputs, model
from crosssuck import train as t
from crosssuck.core import RunFolder, UserError, make_config, open_run
from crosssuck.inputs import eval_batches, load_events, overlap, window_span
from crosssuck.model import input_spec
from crosssuck.video import numbered_frame, read_number, write_video

FPS, SECONDS, EVENT = 15.0, 8.0, (3.0, 2.0)     # of a clip; its event starts at 3 s and lasts 2 s
STILL = {"trivial": False, "colour": 0.0, "hflip": 0.0}


pytestmark = pytest.mark.usefixtures("one_thread")


def study(folder, frames, fps=FPS):
    "An ear and a tail event for training, the same two clips under other numbers for validation."
    (folder / "split").mkdir(parents=True)
    rows = []
    for i, behavior in enumerate(("ear", "tail", "ear", "tail")):
        name = f"evt_{i:04d}_{behavior}.mp4"
        if i < 2:
            write_video(folder / "clips" / name, frames(i), fps, crf=0)
        else:
            shutil.copy(folder / "clips" / rows[i - 2]["clip_path"], folder / "clips" / name)
        rows.append({"event_idx": i, "group": 1, "day": 1, "behavior": behavior, "duration_sec": EVENT[1] - 1, "start_s": 1000.0 * (i + 1), "clip_path": name,
                     "clip_event_offset_s": EVENT[0], "clip_duration_s": SECONDS, "clip_fps": fps, "clip_width_px": 160, "clip_height_px": 90,
                     "source_width_px": 160, "source_height_px": 90, "status": "ok", "error": ""})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "clips" / "clips.csv", index=False)
    for part, mine in (("train", table[:2]), ("val", table[2:])):
        mine[["event_idx", "group", "day", "behavior", "duration_sec", "start_s"]].to_csv(folder / "split" / f"{part}.csv", index=False)
    (folder / "split" / "split.json").write_text(json.dumps({"scheme": "bout", "split_seed": 42}))
    return folder


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    "Every frame carries its number."
    return study(tmp_path_factory.mktemp("numbered"), lambda i: (numbered_frame(k) for k in range(round(SECONDS * FPS))))


@pytest.fixture(scope="module")
def motionless(tmp_path_factory):
    "Nothing moves, so all frames of a window, and all windows of a clip, are one picture."
    def frames(i):
        y, x = np.mgrid[:90, :160] / 20
        picture = np.stack([128 + 80 * np.sin(x + i) * np.cos(y * (c + 1) / 2) for c in range(3)], -1).astype(np.uint8)
        return (picture for _ in range(round(SECONDS * FPS)))
    return study(tmp_path_factory.mktemp("motionless"), frames)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return study(tmp_path_factory.mktemp("grey"), lambda i: (np.full((90, 160, 3), 200, np.uint8) for _ in range(round(SECONDS * FPS))))


def config(study, *, faults=(), **sections):
    facts = {"experiment": "t", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv")}, "window": {"num_frames": 8, "sample_fps": 12.0, "views": 2},
             "geometry": {"policy": "squash", "size_px": 96}, "augment": STILL, "model": {"backbone": "r2plus1d_tiny", "weights": "none", "head_dropout": 0.0},
             "loader": {"workers": 0}, "optim": {"lr": 1e-4, "epochs": 1, "batch_size": 2, "cosine_epochs": 2}, "study": "ablation" if faults else "none", "faults": list(faults)}
    return make_config({**facts, **{k: {**facts.get(k, {}), **v} for k, v in sections.items()}})


class Fed:
    "What went into the model: its videos, in training and in evaluation, with the ids of the events."
    def __init__(self, cfg, tmp_path, epochs=4):
        self.config, self.train, self.clean, self.evaluation, self.ids, self.eval_ids = cfg, [], [], [], [], []
        loop = t.start_loop(cfg, RunFolder(tmp_path), 0, "cpu")
        net, step = loop.forward, t.train_step

        def spy(video):
            self.train.append(video.clone())
            return net(video)

        def noting(loop, group):
            self.ids += [i for b in group for i in b.event_idx.tolist()]
            self.clean += [b.video.clone() for b in group]
            step(loop, group)
        loop.forward = spy
        t.train_step = noting
        try:
            for loop.epoch in range(epochs):
                loop.step = 0
                t.train_epoch(loop)
        finally:
            t.train_step = step
        val = load_events(cfg, "val", spec=input_spec(cfg))
        loop.model.register_forward_pre_hook(lambda m, args: self.evaluation.append(args[0].clone()))
        table = model.predict(loop.model, eval_batches(val, cfg), val)
        self.eval_ids = [i for i in table.event_idx for _ in range(cfg.window.views)]
        self.events = {e.event_idx: e for e in [*loop.train.events, *val.events]}
        self.spec = input_spec(cfg)

    def pixels(self, part="train"):
        "Windows as pictures, (n, T, H, W, 3) uint8."
        video = torch.cat(getattr(self, part)).permute(0, 2, 3, 4, 1)
        return ((video * torch.tensor(self.spec.std) + torch.tensor(self.spec.mean)) * 255).round().clamp(0, 255).to(torch.uint8).numpy()

    def times(self):
        "The true time of each frame that was fed in training, by its number, (n, T) s."
        return np.array([[read_number(f) for f in window] for window in self.pixels()]) / FPS


def caught(check, fed):
    "The check must fail on the old behaviour."
    with pytest.raises(AssertionError):
        check(fed)


# ---------------------------------------------------------------- windows anywhere in the padded clip

def windows_touch_their_event(fed):
    span, jitter = window_span(fed.config.window), fed.config.window.jitter_s
    for event, times in zip(fed.ids, fed.times(), strict=True):
        e = fed.events[event]
        least = min(e.end_s - e.start_s, span) - jitter - 1 / FPS
        assert overlap((times[0], times[-1]), [(e.start_s, e.end_s)]) >= least, f"event {event}: {times}"


def test_window_anywhere(numbered, tmp_path):
    windows_touch_their_event(Fed(config(numbered), tmp_path))
    caught(windows_touch_their_event, Fed(config(numbered, faults=["window_anywhere"]), tmp_path))


def test_half_of_the_old_tail_windows_showed_nothing(tmp_path):
    "The share is E1's: short events, 3 s of padding on either side."
    rng = np.random.default_rng(0)
    span = 15 / 12
    ends = 3 + 1 + rng.gamma(0.7, 6.0, 4000).astype(int)
    shown = [overlap((s, s + span), [(3, e)]) for e, s in ((e, rng.uniform(0, e + 3 - span)) for e in ends)]
    assert 0.35 < np.mean(np.array(shown) < 0.25) < 0.65


# ---------------------------------------------------------------- stride by rounding

def frames_are_those_of_their_times(fed):
    for times in fed.times():
        assert np.abs(times - times[0] - np.arange(16) / 12).max() <= 1 / FPS + 1e-6, f"16 frames span {times[-1] - times[0]:.2f} s"


def test_stride_by_rounding(numbered, tmp_path, monkeypatch):
    "16 frames of a clip of 15 fps: 1.25 s at 12 a second, and not the 1 s of every frame."
    e1 = {"window": {"num_frames": 16}}
    frames_are_those_of_their_times(Fed(config(numbered, **e1), tmp_path))
    monkeypatch.setattr(inputs, "window_times", lambda start_s, window: start_s + np.arange(window.num_frames) * round(FPS / window.sample_fps) / FPS)
    caught(frames_are_those_of_their_times, Fed(config(numbered, **e1), tmp_path))


# ---------------------------------------------------------------- a draw for every frame

SHAKY = {"trivial": False, "colour": 0.3, "hflip": 0.5, "rotate_deg": 20.0, "scale": 0.1, "shift": 0.05}


def motionless_stays_motionless(fed):
    for window in fed.pixels():
        assert (window == window[:1]).all(), "frames of a motionless clip differ"


@pytest.mark.parametrize("augment", [SHAKY, {"trivial": True}], ids=["ours", "trivial"])
@pytest.mark.parametrize("where", ["workers", "device"])
def test_a_draw_for_every_frame(motionless, tmp_path, augment, where):
    sections = {"augment": augment, "loader": {"transforms": where}}
    fed = Fed(config(motionless, **sections), tmp_path)
    motionless_stays_motionless(fed)
    assert len({w.tobytes() for w in fed.pixels()}) > 2    # something was drawn
    caught(motionless_stays_motionless, Fed(config(motionless, faults=["augment_per_frame"], **sections), tmp_path))


# ---------------------------------------------------------------- two geometries

def training_and_evaluation_see_the_same(fed):
    trained = {i: w[0] for i, w in zip(fed.ids, fed.pixels(), strict=True)}
    for i, window in zip(fed.eval_ids, fed.pixels("evaluation"), strict=True):
        assert np.array_equal(window[0], trained[i - 2])     # event i is event i - 2 once more


@pytest.mark.parametrize("policy", ["center", "letterbox", "squash"])
def test_two_geometries(motionless, tmp_path, policy):
    sections = {"geometry": {"policy": policy, "short_side_px": 110}}
    training_and_evaluation_see_the_same(Fed(config(motionless, **sections), tmp_path, epochs=1))
    caught(training_and_evaluation_see_the_same, Fed(config(motionless, faults=["two_geometries"], **sections), tmp_path, epochs=1))


def test_the_fault_is_e1s_own(motionless):
    "With its centre crop the evaluation gets the whole frame, squashed."
    e1 = config(motionless, faults=["two_geometries"], geometry={"policy": "center", "size_px": 224, "short_side_px": 256})
    train, val = (load_events(e1, part, spec=input_spec(e1)).events[0].region for part in ("train", "val"))
    assert abs(train.inside[2] - train.inside[3]) <= 1 and train.inside[2] in (78, 79)     # 224 of 256 of 90 px
    assert (val.inside[2], val.inside[3]) == (160, 90) and val.inner == (224, 224)


# ---------------------------------------------------------------- a key that nothing reads

def mixtures_are_fed(fed):
    "As the config says `mixup_alpha: 0.4`, no clip may enter the model as it is."
    for video, clean in zip(fed.train, fed.clean, strict=True):
        for clip in video:
            assert not any(torch.equal(clip, c) for c in clean)


def test_a_key_that_nothing_reads(motionless, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown key 'augment.use_mixup'"):
        config(motionless, augment={"use_mixup": True})
    mixed = config(motionless, augment={"mixup_alpha": 0.4}, loss={"balanced_sampling": True})
    mixtures_are_fed(Fed(mixed, tmp_path))
    monkeypatch.setattr(t, "mix", lambda video, labels, *, alpha, smoothing: (video, t.soft_targets(labels, smoothing)))
    caught(mixtures_are_fed, Fed(mixed, tmp_path))


def test_several_views_are_fed_as_the_config_says(numbered, tmp_path, monkeypatch):
    "The multi-clip validation of the earlier configs never ran either."
    def views_are_fed(fed):
        assert sum(map(len, fed.evaluation)) == 2 * fed.config.window.views
    views_are_fed(Fed(config(numbered, window={"views": 5}), tmp_path, epochs=1))
    monkeypatch.setattr(inputs, "view_shares", lambda views: [0.5])
    with pytest.raises((AssertionError, ValueError)):
        views_are_fed(Fed(config(numbered, window={"views": 5}), tmp_path, epochs=1))


# ---------------------------------------------------------------- p_t from the weighted, smoothed cross-entropy

def a_weight_is_only_a_weight(cfg):
    "A class weight multiplies a clip's loss and changes nothing else, smoothing or not."
    logits = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 2
    for smoothing in (0.0, 0.05):
        target = t.soft_targets(torch.ones(64, dtype=torch.long), smoothing)
        if smoothing == 0:
            plain, heavy = (t.clip_loss(cfg, logits, target, torch.tensor([1.0, w])) for w in (1.0, 6.85))
            assert torch.allclose(heavy, 6.85 * plain, rtol=1e-4)
        both = t.clip_loss(cfg, logits, target, torch.tensor([2.0, 2.0]))
        assert torch.allclose(both, 2 * t.clip_loss(cfg, logits, target, torch.tensor([1.0, 1.0])), rtol=1e-4)


def test_weights_in_the_focusing_term(motionless):
    a_weight_is_only_a_weight(config(motionless))
    caught(a_weight_is_only_a_weight, config(motionless, faults=["weights_in_focus"]))


def test_the_gradient_that_reaches_the_model_is_the_losss(motionless, tmp_path):
    "What the network is pulled by, measured at its logits in a real step."
    def pull(faults):
        cfg = config(motionless, faults=faults, loss={"class_weights": [1.0, 6.85], "allow_stacked": True})
        loop, seen = t.start_loop(cfg, RunFolder(tmp_path), 0, "cpu"), []

        def spy(video):
            logits = loop.model(video)
            logits.retain_grad()
            seen.append(logits)
            return logits
        loop.forward = spy
        t.train_epoch(loop)
        target = t.soft_targets(torch.tensor(loop.seen["label"]))
        again = seen[0].detach().requires_grad_()
        (t.focal_loss(again, target, gamma=2.0, weights=torch.tensor([1.0, 6.85])).sum() / len(again)).backward()
        return seen[0].grad, again.grad
    assert torch.allclose(*pull(()), atol=1e-7)
    assert not torch.allclose(*pull(("weights_in_focus",)), atol=1e-4)


# ---------------------------------------------------------------- ImageNet's normalisation

def grey_is_what_the_weights_call_grey(fed):
    for video in fed.train + fed.evaluation:
        assert torch.allclose(video, torch.tensor((200 / 255 - 0.45) / 0.225), atol=0.03), video.mean()     # as the weights of MViTv2-S were trained


def test_normalisation_of_the_weights(grey, tmp_path, monkeypatch):
    grey_is_what_the_weights_call_grey(Fed(config(grey), tmp_path, epochs=1))
    old = replace(model.BACKBONES["mvit_v2_s"].seen(), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    monkeypatch.setitem(model.BACKBONES, "mvit_v2_s", replace(model.BACKBONES["mvit_v2_s"], seen=lambda: old))
    caught(grey_is_what_the_weights_call_grey, Fed(config(grey), tmp_path, epochs=1))


# ---------------------------------------------------------------- the three faults that E1's job met

def test_an_older_torch_is_refused_in_one_line_before_any_work(tmp_path):
    "In a process of its own, whose torch says that it is the lab's: one line, exit code 1, no file."
    code = ("import sys, torch; torch.__version__ = torch.version.__version__ = '2.1.2+cu121'\n"
            "from crosssuck.core import RunFolder, UserError\nfrom pathlib import Path\nfrom crosssuck.train import fit\n"
            "try: fit(None, RunFolder(Path(sys.argv[1])), 0)\nexcept UserError as e: print(e); sys.exit(1)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("\n") == 1 and "torch 2.1.2+cu121 is too old" in done.stdout, done.stderr
    assert not (tmp_path / "run").exists()


def peak_bytes(work):
    "The most memory that tensors take while some work is done, beyond what was there before."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    changes = sorted((e.start_ns(), e.nbytes()) for e in prof.profiler.kineto_results.events() if e.name() == "[memory]")
    return max(np.cumsum([n for _, n in changes]).max(), 0)


def test_evaluation_builds_no_graph(numbered, monkeypatch):
    "Measured: scoring two batches takes what one forward pass takes; E1's validation kept every layer of it."
    cfg = config(numbered, window={"views": 4}, optim={"batch_size": 4})
    val = load_events(cfg, "val", spec=input_spec(cfg))
    batches, net = list(eval_batches(val, cfg)), model.build_model(cfg).eval()
    with torch.no_grad():
        forward = peak_bytes(lambda: net(batches[0].video))

    def lean(scoring):
        used = peak_bytes(scoring)
        assert used < 1.5 * forward, f"{used / 1e6:.0f} MB, one pass takes {forward / 1e6:.0f}"
    lean(lambda: model.predict(net, batches, val))
    kept = []
    caught(lean, lambda: kept.extend(net(b.video) for b in batches))
    monkeypatch.setattr(torch, "inference_mode", contextlib.nullcontext)
    with pytest.raises((AssertionError, RuntimeError)):
        lean(lambda: model.predict(net, batches, val))


def test_a_stack_of_corrections_is_refused(motionless, tmp_path, monkeypatch):
    stacked = config(motionless, loss={"class_weights": "inv_freq"}, data={})

    def refused():
        run = open_run(tmp_path / "runs", stacked, 0, resume=True)
        with pytest.raises(UserError, match="3 corrections of the imbalance at once"):
            t.fit(stacked, run, 0, device="cpu", max_steps=1)
        assert not (run / "last.ckpt").exists()
    monkeypatch.setattr(t, "class_weights", lambda given, support: (1.0, 6.85))      # here the classes are even
    refused()
    monkeypatch.setattr(t, "corrections", lambda *a, **k: "")
    with pytest.raises(pytest.fail.Exception):
        refused()


# ---------------------------------------------------------------- the key `faults`

def test_faults_are_refused_outside_a_study(motionless):
    facts = {"faults": ["window_anywhere"]}
    base = config(motionless)
    from crosssuck.core import config_dict
    with pytest.raises(UserError, match="E1's, put back; remove them; a study of what they cost says study: ablation"):
        make_config(config_dict(base) | facts)
    assert make_config(config_dict(base) | facts | {"study": "ablation"}).faults == ("window_anywhere",)
    with pytest.raises(UserError, match="faults"):
        make_config(config_dict(base) | {"study": "ablation", "faults": ["windows"]})


def test_no_config_of_the_project_has_a_fault(root):
    from crosssuck.core import load_config
    for file in sorted((root / "configs").glob("*.yaml")):
        if file.stem.startswith(("train_", "demo_")):
            c = load_config(file)
            assert (c.study, c.faults) == ("none", ()), file.name
