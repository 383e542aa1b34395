"What the model sees: windows, geometry, augmentation, draws, cache, memory. E1's faults have a file of their own, test_old_faults.py."
import json
import math
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import frames as numbered_frames
from videos import uneven

from crosssuck import inputs
from crosssuck.core import AugmentConfig, GeometryConfig, UserError, WindowConfig, make_config, sha256_file
from crosssuck.inputs import (
    Draw,
    FrameCache,
    InputSpec,
    crops,
    draw_change,
    eval_batches,
    free_starts,
    load_events,
    make_region,
    mirror,
    move,
    nearest,
    normalise,
    overlap,
    place,
    read_region,
    recolour,
    seen_share,
    start_range,
    train_batches,
    train_draws,
    view_draws,
    view_sentence,
    view_shares,
    window_coverage,
    window_pixels,
    window_span,
    window_times,
    worker_mb,
    working_px,
    working_square,
)
from crosssuck.simulation import tiny_study
from crosssuck.video import numbered_frame, probe, read_frames, read_number, write_video

SPEC = InputSpec(8, 48, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
SHAKY = {"trivial": False, "hflip": 0.5, "vflip": 0.5, "rotate_deg": 20.0, "scale": 0.1, "shift": 0.05}


pytestmark = pytest.mark.usefixtures("one_thread")


def make(study=None, **sections):
    study = study or tiny_study()
    facts = {"experiment": "t", "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 8}, "loader": {"workers": 0, "cache_mb": 200},
             "data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv"), "boxes": str(study / "boxes.csv")},
             "window": {"num_frames": 8, "sample_fps": 5.0, "views": 3}, "geometry": {"policy": "roi", "size_px": 48, "roi_from": "clip"}, "augment": SHAKY}
    return make_config({**facts, **{k: {**facts.get(k, {}), **v} for k, v in sections.items()}})


def load(part="train", study=None, cache=None, spec=SPEC, **sections):
    config = make(study, **sections)
    return load_events(config, part, spec=spec, cache=cache), config


@pytest.fixture
def study(tmp_path):
    return shutil.copytree(tiny_study(), tmp_path / "study")


def rewrite(path, change):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    changed = change(table)
    (table if changed is None else changed).to_csv(path, index=False)


def numbered_study(folder, fps, *, seconds=8.0, event=(2.0, 5)):
    "Two events whose frames carry their number; the clip's rate is the given one."
    (folder / "split").mkdir(parents=True)
    clips, rows = [], []
    for i, behavior in enumerate(("ear", "tail")):
        name = f"evt_{i:04d}_{behavior}.mp4"
        write_video(folder / "clips" / name, (numbered_frame(k) for k in range(round(seconds * fps))), fps, crf=10)
        row = {"event_idx": i, "group": 1, "day": 1, "behavior": behavior, "duration_sec": event[1] - 1, "start_s": 1000.0 * (i + 1)}
        rows.append(row)
        clips.append({**row, "clip_path": name, "clip_event_offset_s": event[0], "clip_duration_s": seconds, "clip_fps": fps, "clip_width_px": 160,
                      "clip_height_px": 90, "source_width_px": 160, "source_height_px": 90, "status": "ok", "error": ""})
    pd.DataFrame(clips).to_csv(folder / "clips" / "clips.csv", index=False)
    for part in ("train", "val", "test_ood"):
        pd.DataFrame(rows).to_csv(folder / "split" / f"{part}.csv", index=False)
    (folder / "split" / "split.json").write_text(json.dumps({"scheme": "bout", "split_seed": 42}))
    return folder


# ---------------------------------------------------------------- windows

def random_cases(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        span = rng.uniform(0.3, 3.0)
        last = span + rng.uniform(0, 12)
        length = min(rng.choice([0.4, 1.0, 2.0, 5.0, 40.0]), last)
        start = rng.uniform(0, last - length)
        yield (start, start + length), last, span, rng.uniform(0, span / 2), rng


def assert_touches(window_start, event, last, span, jitter):
    assert -1e-9 <= window_start and window_start + span <= last + 1e-9
    held = overlap((window_start, window_start + span), [event])
    assert held >= min(event[1] - event[0], span) - jitter - 1e-9
    if event[1] - event[0] < span:
        assert held >= event[1] - event[0] - 1e-9


def test_windows_touch_the_event_and_stay_in_the_clip():
    for event, last, span, jitter, rng in random_cases():
        start = place(free_starts(*start_range(event, last, span, jitter), span, []), rng.random())
        assert_touches(start, event, last, span, jitter)


def test_e1_windows_anywhere_in_the_clip_are_caught():
    caught = 0
    for event, last, span, jitter, rng in random_cases(500):
        try:
            assert_touches(rng.uniform(0, last - span), event, last, span, jitter)
        except AssertionError:
            caught += 1
    assert caught > 100


def test_starts_are_spread_over_the_whole_range():
    low, high = start_range((3.0, 4.0), 6.9, 1.25)
    starts = [place([(low, high)], u) for u in np.linspace(0, 1, 101)]
    assert (starts[0], starts[-1]) == (2.75, 3.0) and np.allclose(np.diff(starts), 0.0025)


def test_other_behaviour_is_avoided_as_far_as_can_be():
    for event, last, span, _, rng in random_cases(400, seed=1):
        cuts = np.sort(rng.uniform(0, last, 4))
        others = [(cuts[0], cuts[1]), (cuts[2], cuts[3])]
        low, high = start_range(event, last, span)
        pieces = free_starts(low, high, span, others)
        grid = [overlap((s, s + span), others) for s in np.linspace(low, high, 400)]
        for share in (0.0, 0.3, 1.0):
            start = place(pieces, share)
            assert low - 1e-9 <= start <= high + 1e-9
            assert overlap((start, start + span), others) <= min(grid) + 1e-6


def test_views_are_even_and_inside_the_event():
    for event, last, span, _, _ in random_cases(200, seed=2):
        pieces = free_starts(*start_range(event, last, span), span, [])
        starts = [place(pieces, u) for u in view_shares(5)]
        assert np.allclose(np.diff(starts), np.diff(starts)[0])
        for s in starts:
            assert_touches(s, event, last, span, 0)
    assert view_shares(1) == [0.5]


def test_a_window_longer_than_the_clip_is_refused():
    with pytest.raises(UserError, match="does not fit"):
        start_range((0, 1), 2.0, 3.0)
    with pytest.raises(UserError, match="24 of 24 events.*does not fit"):
        load(window={"sample_fps": 0.5})


@pytest.mark.parametrize("fps", [10.0, 14.99, 30.0])
def test_times_not_stride(tmp_path, fps):
    "The frames in the batch are those of the window's times at any rate of the file; E1's stride of frames is not."
    events, config = load(study=numbered_study(tmp_path, fps), geometry={"policy": "squash", "size_px": 96}, spec=InputSpec(8, 96, *[(0.5,) * 3] * 2),
                          augment={k: 0.0 for k in ("hflip", "vflip", "rotate_deg", "scale", "shift")}, window={"sample_fps": 12.0})
    window = config.window
    for draw in train_draws(events, config, 0, 0):
        video = window_pixels(events, draw._replace(change=None))
        seen = np.array([read_number(f.permute(1, 2, 0).numpy()) for f in video]) / fps
        wanted = window_times(draw.start_s, window)
        assert np.abs(seen - wanted).max() <= 0.5 / fps + 0.001
        stride = draw.start_s + np.arange(8) * round(fps / window.sample_fps) / fps
        assert np.abs(stride - wanted).max() > 0.5 / fps + 0.001
    assert math.isclose(window_span(WindowConfig(num_frames=16, sample_fps=12.0)), 1.25)


# ---------------------------------------------------------------- geometry

POLICIES = ("center", "letterbox", "squash", "three_crop", "roi")


def test_crops_of_each_policy():
    assert crops(GeometryConfig(size_px=224, short_side_px=256), 568, 320) == ((144, 20, 280, 280),)
    assert crops(GeometryConfig(policy="letterbox"), 568, 320) == ((0, -124, 568, 568),)
    assert crops(GeometryConfig(policy="squash"), 568, 320) == ((0, 0, 568, 320),)
    assert [c.x for c in crops(GeometryConfig(policy="three_crop"), 568, 320)] == [0, 124, 248]
    assert [c.y for c in crops(GeometryConfig(policy="three_crop"), 320, 568)] == [0, 124, 248]
    assert crops(GeometryConfig(policy="roi", roi_context=1.5), 568, 320, (100, 100, 40, 20)) == ((90, 80, 60, 60),)


def test_seen_share():
    assert seen_share(GeometryConfig(), 3840, 2160).share == pytest.approx(0.4307, abs=1e-3)
    assert seen_share(make(geometry={"policy": "squash"}), 3840, 2160, head_px=100) == pytest.approx((1.0, 100 * 48 / 3840, 100 * 48 / 2160))
    assert seen_share(GeometryConfig(policy="three_crop"), 1920, 1080).share == 1.0
    assert seen_share(GeometryConfig(policy="roi"), 1000, 1000, box=(-50, 0, 100, 100)).share == pytest.approx(0.005)
    assert seen_share(GeometryConfig(policy="roi"), 1000, 1000, box=(0, 0, 100, 100), head_px=30).head_width_px == 30   # enlarging adds none


def test_mirror_is_numpys():
    for before, n, after in ((0, 5, 0), (3, 5, 2), (12, 4, 9), (2, 1, 2)):
        assert mirror(before, n, after).tolist() == np.pad(np.arange(n), (before, after), mode="reflect").tolist()


def test_roi_is_undistorted_scaled_from_the_source_and_mirrored(tmp_path):
    "A disc at a known place of the source comes out round, centred and of the right size; beyond the frame the picture is mirrored."
    y, x = np.mgrid[:180, :320]
    frame = np.full((180, 320, 3), 60, np.uint8)
    frame[(x - 200) ** 2 + (y - 60) ** 2 <= 20 ** 2] = 230
    clip = write_video(tmp_path / "disc.mp4", [frame] * 3, 10, crf=10)
    region = make_region(crops(GeometryConfig(policy="roi", roi_context=2.0), 320, 180, (180, 40, 40, 40)), 320, 180, 96, 96)
    bright = read_region(clip, [0.0], region)[0][0].float().mean(0) > 145
    rows, columns = torch.where(bright)
    assert abs(int(rows.max() - rows.min()) - int(columns.max() - columns.min())) <= 1
    assert abs(int(rows.max() - rows.min()) + 1 - 49) <= 2                   # 41 of 80 px become 49 of 96
    assert abs(float(rows.float().mean()) - 48) < 1 and abs(float(columns.float().mean()) - 48) < 1
    corner = make_region(crops(GeometryConfig(policy="roi"), 320, 180, (-20, -10, 60, 60)), 320, 180, 60, 60)
    seen = read_region(clip, [0.0], corner)[0][0, 0].numpy().astype(int)
    whole = read_frames(clip, [0.0])[0][0, ..., 0].astype(int)
    wanted = np.pad(whole, ((10, 0), (20, 0)), mode="reflect")[:60, :60]
    assert np.abs(seen - wanted).max() <= 6 and seen.min() > 40


def striped_study(folder, scale):
    "Events in a frame of 640 x 360 px with stripes 2 px wide in a box of 48 px; the clips are that, or proxies of it."
    (folder / "split").mkdir(parents=True)
    frame = np.full((360, 640, 3), 128, np.uint8)
    frame[101:149, 201:249] = np.where(np.arange(48) // 2 % 2, 250, 5)[None, :, None]
    small = frame.reshape(360 // scale, scale, 640 // scale, scale, 3).mean((1, 3)).astype(np.uint8)
    rows = []
    for i, behavior in enumerate(("ear", "tail")):
        name = f"evt_{i:04d}_{behavior}.mp4"
        write_video(folder / "clips" / name, (small for _ in range(50)), 10, crf=4)
        rows.append({"event_idx": i, "group": 1, "day": 1, "behavior": behavior, "duration_sec": 1, "start_s": 1000.0 * (i + 1), "clip_path": name, "clip_event_offset_s": 1.0,
                     "clip_duration_s": 5.0, "clip_fps": 10, "clip_width_px": 640 // scale, "clip_height_px": 360 // scale, "source_width_px": 640, "source_height_px": 360,
                     "status": "ok", "error": ""})
    pd.DataFrame(rows).to_csv(folder / "clips" / "clips.csv", index=False)
    for part in ("train", "val", "test_ood"):
        pd.DataFrame(rows).to_csv(folder / "split" / f"{part}.csv", index=False)
    (folder / "split" / "split.json").write_text(json.dumps({"scheme": "bout", "split_seed": 42}))
    pd.DataFrame({"event_idx": [0, 1], "time_s": "", "x_px": 201, "y_px": 101, "w_px": 48, "h_px": 48}).to_csv(folder / "boxes.csv", index=False)
    return folder


def test_roi_cuts_at_the_sources_own_resolution(tmp_path):
    "Stripes of two pixels of the source survive in the model's square; proxies have lost them, and are refused unless the config says so."
    still = {k: 0.0 for k in ("colour", "hflip", "vflip", "rotate_deg", "scale", "shift")}
    native, proxies = striped_study(tmp_path / "native", 1), striped_study(tmp_path / "proxies", 4)
    events, config = load(study=native, augment=still, geometry={"roi_from": "source"})
    seen = window_pixels(events, train_draws(events, config, 0, 0)[0])[0, 0].float()
    wanted = torch.from_numpy(np.where(np.arange(48) // 2 % 2, 250.0, 5.0)).float().expand(48, 48)
    assert (seen - wanted).abs().mean() < 8      # pixel by pixel: nothing was scaled
    with pytest.raises(UserError, match="the clip has 160 × 90 px, its source 640 × 360; extract with --mode copy"):
        load(study=proxies, augment=still, geometry={"roi_from": "source"})
    lost, config = load(study=proxies, augment=still, geometry={"roi_from": "clip"})
    assert window_pixels(lost, train_draws(lost, config, 0, 0)[0])[0, 0].float()[:, 8:40].std() < 15 < 100 < seen.std()
    assert "cut at the source's own resolution" in view_sentence(events) and "25% of their source's resolution" in view_sentence(lost)


def test_roi_takes_context_and_boxes_of_moments(tmp_path):
    study = striped_study(tmp_path / "s", 1)
    moments = [{"event_idx": i, "time_s": t, "x_px": x, "y_px": 101, "w_px": 24, "h_px": 48} for i in (0, 1) for t, x in ((0.0, 201), (1.0, 225))]
    pd.DataFrame(moments).to_csv(study / "boxes.csv", index=False)
    still = {k: 0.0 for k in ("colour", "hflip", "vflip", "rotate_deg", "scale", "shift")}
    for context, side in ((1.0, 48), (2.0, 96)):
        region = load(study=study, augment=still, geometry={"roi_from": "source", "roi_context": context})[0].events[0].region
        assert region.inside == (201 - (side - 48) // 2, 101 - (side - 48) // 2, side, side)


def test_letterbox_bars_are_the_means_grey():
    events, config = load("val", geometry={"policy": "letterbox"})
    video = next(iter(eval_batches(events, config))).video
    assert video[..., :8, :].abs().max() < 0.02 and video[..., 20:28, :].abs().mean() > 0.05


@pytest.mark.parametrize("policy", POLICIES)
def test_one_geometry_in_training_and_evaluation(policy):
    "The same window without a change is the same picture in a training and an evaluation batch, margin or not."
    still = {k: 0.0 for k in ("colour", "hflip", "vflip", "rotate_deg", "scale", "shift")}
    events, config = load(geometry={"policy": policy}, augment=still)
    wide, _ = load(geometry={"policy": policy}, augment={**still, "shift": 0.1})
    for draw in train_draws(events, config, 0, 0)[:6]:
        trained, scored = window_pixels(events, draw), window_pixels(events, draw._replace(change=None))
        assert torch.equal(trained, scored)
        near = window_pixels(wide, draw._replace(change=None))      # another margin moves the rounding of the cut, by half a pixel of the clip
        assert (near.float() - scored.float()).abs().mean() < 12
    e1 = load(geometry={"policy": "squash" if policy != "squash" else "center"}, augment=still)[0]
    assert (window_pixels(e1, draw._replace(crop=0)).float() - scored.float()).abs().mean() > 5


def test_three_crops_are_views_of_their_own():
    events, config = load("val", geometry={"policy": "three_crop"})
    batch = next(iter(eval_batches(events, config, views=2, batch_size=6)))
    assert batch.view.tolist() == [0, 1, 2, 3, 4, 5] and len(set(batch.event_idx.tolist())) == 1
    assert not torch.equal(batch.video[0], batch.video[1])
    assert {d.crop for d in train_draws(*load(geometry={"policy": "three_crop"}), 0, 0)} == {0, 1, 2}


# ---------------------------------------------------------------- augmentation

AUGMENTS = [AugmentConfig(**SHAKY), AugmentConfig(), AugmentConfig(trivial=True, vflip=0.5, rotate_deg=180.0, scale=0.3, shift=0.2)]


def assert_still(video):
    assert (video == video[:1]).all(), "frames of a motionless clip differ"


@pytest.mark.parametrize("augment", AUGMENTS)
def test_one_draw_a_clip(augment):
    "A clip in which nothing moves stays so, whatever is drawn; drawn anew for each frame, as E1 did, it does not."
    rng, work = np.random.default_rng(0), working_px(48, augment)
    picture = torch.from_numpy(rng.integers(0, 255, (1, 3, work, work), dtype=np.uint8))
    def changed(video, change): return recolour(move(video, change, 48), change)
    changes = [draw_change(augment, rng) for _ in range(60)]
    outs = [changed(picture.expand(5, -1, -1, -1).contiguous(), c) for c in changes]
    for out in outs:
        assert out.shape == (5, 3, 48, 48) and out.dtype == torch.uint8
        assert_still(out)
    assert len({out.numpy().tobytes() for out in outs}) > 10
    with pytest.raises(AssertionError, match="motionless"):
        assert_still(torch.cat([changed(picture, c) for c in changes[:8]]))


def test_augmentation_is_drawn_by_seed_and_leaves_torchs_generator_alone():
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 3, 48, 48), dtype=np.uint8))
    change = draw_change(AugmentConfig(), np.random.default_rng(5))
    state = torch.get_rng_state()
    first = recolour(video, change)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(first, recolour(video, change))


def test_trivial_changes_colour_only():
    assert {"Identity", "Brightness", "Contrast", "Equalize"} <= set(inputs._TRIVIAL._AUGMENTATION_SPACE)
    assert not [k for k in inputs._TRIVIAL._AUGMENTATION_SPACE if k.startswith(("Shear", "Translate", "Rotate"))]


def test_the_margin_holds_every_change():
    "A picture of coordinates: no change of the config reaches beyond the working square, where it would be mirrored."
    for augment in (AugmentConfig(rotate_deg=20.0, scale=0.1, shift=0.05), AugmentConfig(rotate_deg=180.0), AugmentConfig(scale=0.3, shift=0.2)):
        work, rng = working_px(64, augment), np.random.default_rng(0)
        assert (work - 64) % 2 == 0
        inner = torch.zeros(1, 3, work, work, dtype=torch.uint8)
        inner[..., 1:-1, 1:-1] = 200
        lost = [(move(inner, draw_change(augment, rng), 64) == 0).any() for _ in range(200)]
        assert not any(lost)


def test_brightness_contrast_saturation():
    video = torch.from_numpy(np.random.default_rng(0).integers(60, 120, (4, 3, 16, 16), dtype=np.uint8))
    none = inputs.Change(False, False, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, None)
    assert torch.equal(recolour(video, none), video)
    assert recolour(video, none._replace(brightness=1.5)).float().mean() == pytest.approx(1.5 * float(video.float().mean()), rel=0.01)
    flat = recolour(video, none._replace(contrast=0.5)).float()
    assert flat.std() == pytest.approx(0.5 * float(video.float().std()), rel=0.03) and flat.mean() == pytest.approx(float(video.float().mean()), abs=1)
    grey = recolour(video, none._replace(saturation=0.0))
    assert (grey[:, 0] == grey[:, 2]).all()


def test_normalisation_is_that_of_the_weights():
    events, config = load("val")
    imagenet = replace(events, spec=InputSpec(8, 48, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours, theirs = (next(iter(eval_batches(e, config))).video for e in (events, imagenet))
    pixels = torch.stack([window_pixels(events, d) for d in eval_batches(events, config).batches[0]])
    wanted = (pixels.double() / 255 - 0.45) / 0.225
    assert ours.dtype == torch.float32 and torch.allclose(ours.double(), wanted.permute(0, 2, 1, 3, 4), atol=1e-5)
    assert (ours - theirs).abs().max() > 0.1        # E1's fault would show
    assert torch.equal(normalise(pixels, events.spec), ours)


# ---------------------------------------------------------------- events

def test_every_event_is_accounted_for(study):
    clips = study / "clips" / "clips.csv"
    table = pd.read_csv(study / "split" / "train.csv")
    gone, failed, unlisted, late = table.event_idx[:4]
    (study / "clips" / f"evt_{gone:04d}_{table.behavior[0]}.mp4").unlink()
    def change(t):
        t.loc[t.event_idx == str(failed), ["status", "error"]] = ["failed", "moov atom not found"]
        t.loc[t.event_idx == str(late), "clip_event_offset_s"] = "9"
        return t[t.event_idx != str(unlisted)]
    rewrite(clips, change)
    with pytest.raises(UserError, match=rf"4 of 24 events of train cannot be read. event {gone}: .*no such file") as e:
        load(study=study)
    assert "\n" not in str(e.value) and "leave_out" in str(e.value)
    events, config = load(study=study, data={"on_unreadable": "leave_out"})
    assert len(events) == 20 and events.left_out.event_idx.tolist() == [gone, failed, unlisted, late]
    words = events.left_out.reason.tolist()
    assert "moov atom" in words[1] and "no clip" in words[2] and "does not show the event" in words[3]
    assert sum(len(b) for b in train_batches(events, config, 0, 0)) == 20
    assert events.table.event_idx.tolist() == events.event_idx.tolist() == [e.event_idx for e in events.events]


@pytest.mark.parametrize("data, words", [({"scheme": "event"}, "scheme is 'bout', the config says 'event'"), ({"split_seed": 1}, "split_seed is 42")])
def test_another_split_is_refused(data, words):
    with pytest.raises(UserError, match=words):
        load(data=data)


def test_edited_tables_are_refused(study):
    path = study / "split" / "val.csv"
    original = path.read_text()
    rewrite(path, lambda t: t.iloc[1:])
    with pytest.raises(UserError, match="split.json counts"):
        load("val", study=study)
    path.write_text(original + original.splitlines()[-1] + "\n")
    with pytest.raises(UserError, match="twice.*only training may be oversampled"):
        load("val", study=study)
    path.write_text(original)
    rewrite(study / "clips" / "clips.csv", lambda t: t.loc.__setitem__((t.group == "1", "behavior"), "ear"))
    with pytest.raises(UserError, match="the split says otherwise"):
        load("val", study=study)


def test_a_clip_that_is_not_what_the_table_says_is_refused(study):
    rewrite(study / "clips" / "clips.csv", lambda t: t.loc.__setitem__((0, "clip_width_px"), "320"))
    with pytest.raises(UserError, match="event 0: evt_0000_ear.mp4: is 160 × 90 px"):
        load(study=study)


def test_boxes(study):
    boxes = study / "boxes.csv"
    rewrite(boxes, lambda t: t.iloc[1:])
    with pytest.raises(UserError, match="event 0: no box"):
        load(study=study)
    assert len(load(study=study, geometry={"policy": "squash"})[0]) == 24
    rewrite(boxes, lambda t: t.loc.__setitem__((0, "x_px"), "5000"))
    with pytest.raises(UserError, match="lies outside of the source"):
        load(study=study, data={"on_unreadable": "stop"})


@pytest.mark.parametrize("sections, key", [
    ({"window": {"jitter_s": 2.0}}, "window.jitter_s"), ({"window": {"num_frames": 16}}, "window.num_frames"), ({"geometry": {"size_px": 64}}, "geometry.size_px"),
    ({"augment": {"hflip": 2.0}}, "augment.hflip"), ({"geometry": {"policy": "center", "short_side_px": 32}}, "geometry.short_side_px"), ({"data": {"boxes": None}}, "data.boxes")])
def test_a_config_against_the_weights_or_itself_is_refused(sections, key):
    with pytest.raises(UserError, match=key):
        load(**sections)


def test_seconds_of_the_other_behaviour_travel_with_the_batch(study):
    "An ear event in the same pen, half of it in the same seconds as a tail event: avoided where possible, else reported."
    def change(t):
        first = t[(t.group == "1") & (t.behavior == "ear")].iloc[0]
        tail = t.index[(t.group == "1") & (t.behavior == "tail")][0]
        t.loc[tail, "start_s"] = str(float(first.start_s) + 2)      # in its clip from 3 s on
    rewrite(study / "clips" / "clips.csv", change)
    events, config = load(study=study)
    row = next(k for k, e in enumerate(events.events) if e.others and e.label == 0)
    event, span = events.events[row], window_span(config.window)
    assert event.others[0][0] == pytest.approx(3.0)
    for piece in event.train_starts:
        assert all(overlap((s, s + span), event.others) <= 1e-6 for s in piece)
    crowded = replace(event, others=((0.0, 9.0),), view_starts=((1.0, 1.0),))
    events.events[row] = crowded
    batch = next(iter(eval_batches(events.subset([row]), config)))
    assert batch.other_overlap_s.tolist() == pytest.approx([span] * 3)


def test_a_table_of_the_split_that_was_edited_is_refused(study):
    facts, table = json.loads((study / "split" / "split.json").read_text()), study / "split" / "val.csv"
    (study / "split" / "split.json").write_text(json.dumps(facts | {"sha256": {"val": sha256_file(table)}}))
    load("val", study=study)
    table.write_text(table.read_text().replace(",1,1,", ",1,2,", 1))
    with pytest.raises(UserError, match="val.csv: its SHA-256 .* differs from the one in split.json, .*; make the split again"):
        load("val", study=study)


# ---------------------------------------------------------------- draws and batches

def test_draws_are_a_function_of_seed_and_epoch():
    events, config = load()
    draws = train_draws(events, config, 3, 7)
    assert draws == train_draws(load()[0], config, 3, 7)
    others = [train_draws(events, config, s, e) for s, e in ((3, 8), (4, 7), (7, 3))]
    assert all(d != draws for d in others)
    assert len(draws) == len(events) and len({d.start_s for d in draws}) > 20


def test_balanced_sampling_is_half_and_half_in_each_batch_and_goes_round():
    events, config = load()
    for epoch in range(3):
        batches = train_batches(events, config, 0, epoch)
        assert len(batches) == 3
        for batch in batches.batches:
            assert sum(events.events[d.row].label for d in batch) == 4
        tail = pd.Series([d.row for d in batches.draws if events.events[d.row].label == 1]).value_counts()
        assert len(tail) == 8 and set(tail) == {1, 2}
    orders = ["".join(str(events.events[d.row].label) for d in b) for e in range(4) for b in train_batches(events, config, 0, e).batches]
    assert "01010101" not in orders or len(set(orders)) > 6       # Mixup pairs neighbours
    plain, config = load(loss={"balanced_sampling": False})
    assert sorted(d.row for d in train_draws(plain, config, 0, 0)) == list(range(24))
    with pytest.raises(UserError, match="needs both classes"):
        train_draws(events.subset(np.flatnonzero(events.label == 0)), load()[1], 0, 0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("workers", [2, 4])
def test_the_same_batches_for_any_number_of_workers_and_after_a_resume(workers):
    events, config = load(optim={"batch_size": 5})
    alone = list(train_batches(events, config, 1, 2, workers=0))
    state = torch.get_rng_state()
    helped = list(train_batches(load(optim={"batch_size": 5})[0], config, 1, 2, workers=workers))
    later = list(train_batches(load(optim={"batch_size": 5})[0], config, 1, 2, first_step=3, workers=workers))
    assert torch.equal(state, torch.get_rng_state())
    assert [len(b) for b in alone] == [5, 5, 5, 5, 4] and len(later) == 2
    for a, b in [*zip(alone, helped, strict=True), *zip(alone[3:], later, strict=True)]:
        for name in ("video", "label", "event_idx", "view", "overlap_s", "other_overlap_s"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_evaluation_gives_every_event_and_view_once_unchanged():
    events, config = load("test_ood")
    first, again = (list(eval_batches(events, config, batch_size=7)) for _ in range(2))
    assert all(torch.equal(a.video, b.video) for a, b in zip(first, again, strict=True))
    pairs = [(i, v) for b in first for i, v in zip(b.event_idx.tolist(), b.view.tolist(), strict=True)]
    assert pairs == [(i, v) for i in events.event_idx.tolist() for v in range(3)]
    labels = dict(zip(events.event_idx.tolist(), events.label.tolist(), strict=True))
    assert all(labels[i] == y for b in first for i, y in zip(b.event_idx.tolist(), b.label.tolist(), strict=True))
    assert len(eval_batches(events, config, views=1, batch_size=5)) == 3


def test_batches_report_their_overlap_and_window_coverage_agrees():
    events, config = load()
    shown = torch.cat([b.overlap_s for b in train_batches(events, config, 0, 5)])
    coverage = window_coverage(events, config, 0, 5)
    assert coverage.loc["all", "overlap_s"] == pytest.approx(float(shown.mean()), abs=1e-5)
    assert coverage.loc["all", "least_overlap_share"] >= 1 - config.window.jitter_s / window_span(config.window) - 1e-9
    assert coverage.draws.to_dict() == {"ear": 12, "tail": 12, "all": 24}
    rng = np.random.default_rng(0)
    anywhere = [d._replace(start_s=rng.uniform(0, events.events[d.row].last_s - window_span(config.window))) for d in train_draws(events, config, 0, 5)]
    assert window_coverage(events, config, 0, draws=anywhere).loc["all", "least_overlap_share"] < 0.5


def test_events_of_another_config_are_refused():
    events, _ = load()
    with pytest.raises(UserError, match="another 'window' section"):
        train_batches(events, make(window={"sample_fps": 4.0}), 0, 0)


# ---------------------------------------------------------------- cache

@pytest.mark.parametrize("policy", POLICIES)
def test_cached_and_freshly_decoded_windows_are_equal(policy):
    kept, config = load(geometry={"policy": policy}, cache=FrameCache(200))
    fresh, _ = load(geometry={"policy": policy}, loader={"cache_mb": 0})
    assert len(fresh.cache.admitted) == 0 and len(kept.cache.admitted) == 24
    for draw in train_draws(kept, config, 0, 0)[:8]:
        assert torch.equal(window_pixels(kept, draw), window_pixels(fresh, draw))
    assert kept.cache.decoded and not fresh.cache.kept


# name -> rate that the file declares, true time of each frame
FILMS = {"constant": (15.0, np.arange(120) / 15), "odd": (14.99, np.arange(120) / 14.99), "slow": (6.0, np.arange(48) / 6),
         "variable": (15.0, uneven(120, 3))}
NUMBERS = InputSpec(4, 96, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "Short H.264 films whose frames carry their number; key frames are rare, so that reading begins before what is wanted."
    folder = tmp_path_factory.mktemp("films")
    for name, (fps, at_s) in FILMS.items():
        write_video(folder / f"{name}.mp4", numbered_frames(len(at_s)), fps, crf=12, gop=40, bframes=2,
                    times_s=at_s if name == "variable" else None)
    return folder


def overlapping_study(folder, clip, events):
    "Events of one pen and hour, (behavior, start, length in s) in the time of the one clip that shows them all."
    info, offset_s = probe(clip), 5000.0
    (folder / "split").mkdir(parents=True)
    rows = [{"event_idx": i, "group": 1, "day": 1, "behavior": b, "duration_sec": length - 1, "start_s": offset_s + start,
             "end_s": offset_s + start + length} for i, (b, start, length) in enumerate(events)]
    clips = [{**r, "clip_path": str(clip), "clip_event_offset_s": r["start_s"] - offset_s, "clip_duration_s": info.duration_s,
              "clip_fps": info.fps, "clip_width_px": 160, "clip_height_px": 90, "source_width_px": 160, "source_height_px": 90,
              "status": "ok", "error": ""} for r in rows]
    pd.DataFrame(clips).to_csv(folder / "split" / "clips.csv", index=False)
    for part in ("train", "val"):
        pd.DataFrame(rows).to_csv(folder / "split" / f"{part}.csv", index=False)
    (folder / "split" / "split.json").write_text(json.dumps({"scheme": "bout", "split_seed": 42}))
    return folder


def from_every_source(folder, clip, events, *, window):
    "Load the same events so that their windows come from the file, from memory and from disk."
    study = overlapping_study(folder, clip, events)
    caches = {"file": FrameCache(0), "memory": FrameCache(500), "disk": FrameCache(0, 500, folder / "cache")}
    plain = {k: 0.0 for k in ("hflip", "vflip", "rotate_deg", "scale", "shift")}
    facts = {"data": {"clips": str(study / "split" / "clips.csv")}, "geometry": {"policy": "squash", "size_px": 96},
             "augment": plain, "window": window, "loss": {"balanced_sampling": False}}
    return {name: load("val", study=study, cache=cache, spec=NUMBERS, **facts)[0] for name, cache in caches.items()}


def numbers_of(events, draw):
    return [read_number(f.permute(1, 2, 0).numpy()) for f in window_pixels(events, draw._replace(change=None))]


def test_an_evaluation_window_outside_the_training_starts_is_not_frozen(films, tmp_path):
    "The other behaviour goes on during the event: the training windows flee it, the evaluation windows cannot."
    sets = from_every_source(tmp_path / "s", films / "constant.mp4", [("ear", 3.45, 3.0), ("tail", 3.0, 2.0)],
                             window={"num_frames": 4, "sample_fps": 4.0, "jitter_s": 0.3, "views": 3})
    event = sets["file"].events[1]
    assert event.view_starts[-1][1] > event.train_starts[-1][1], "not the case that this test is about"
    for draw in view_draws(sets["file"], 3):
        seen = {name: numbers_of(events, draw) for name, events in sets.items()}
        assert seen["memory"] == seen["disk"] == seen["file"] and len(set(seen["file"])) == 4


spans = st.tuples(st.sampled_from(["ear", "tail"]), st.floats(0.0, 6.0), st.floats(0.3, 3.0))


def check_every_source(films, folder, draw_from):
    "File, memory and disk give the same pixels for random events, overlaps, jitters, views and rates, of the nearest frames."
    name = draw_from(st.sampled_from(sorted(FILMS)))
    clip, sample_fps = films / f"{name}.mp4", draw_from(st.sampled_from([2.0, 3.7, 6.0, 12.0]))
    jitter_s, views = draw_from(st.floats(0, 3 / sample_fps / 2)), draw_from(st.integers(1, 5))
    window = {"num_frames": 4, "sample_fps": sample_fps, "jitter_s": jitter_s, "views": views}
    sets = from_every_source(folder, clip, draw_from(st.lists(spans, min_size=1, max_size=3)), window=window)
    one, true_s = sets["file"], FILMS[name][1]
    starts = [draw_from(st.floats(0, e.last_s - 3 / sample_fps)) for e in one.events]   # as the confound checks ask
    elsewhere = [Draw(row, start_s, 0, 0, None) for row, start_s in enumerate(starts)]
    for draw in [*view_draws(one, views), *train_draws(one, one.config, 0, 0), *elsewhere]:
        pixels = {name: working_square(events, draw) for name, events in sets.items()}
        same = {name: torch.equal(square, pixels["file"]) for name, square in pixels.items()}
        assert all(same.values()), (draw, same)
        wanted_s = draw.start_s + np.arange(4) / sample_fps
        seen = [read_number(f.permute(1, 2, 0).numpy()) for f in pixels["file"]]
        off_s = np.abs(true_s[seen] - wanted_s) - np.abs(true_s[None] - wanted_s[:, None]).min(1)
        assert off_s.max() < 1e-4, draw


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_same_frames_whatever_the_source(films, tmp_path_factory, data):
    check_every_source(films, tmp_path_factory.mktemp("case"), data.draw)


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_same_frames_whatever_the_source_in_many_cases(films, tmp_path_factory, data):
    check_every_source(films, tmp_path_factory.mktemp("case"), data.draw)


def test_a_window_outside_the_clip_is_refused_not_filled_with_its_last_frame(films, tmp_path):
    sets = from_every_source(tmp_path / "s", films / "constant.mp4", [("ear", 3.0, 1.0)], window={"num_frames": 4, "sample_fps": 4.0})
    for events in sets.values():
        for start_s in (-0.2, events.events[0].last_s - 0.5):
            with pytest.raises(UserError, match="constant.mp4: a window from .* is not inside the clip"):
                window_pixels(events, Draw(0, start_s, 0, 0, None))


def test_frames_of_a_clip_that_was_cut_again_are_not_those_of_the_old_one(films, tmp_path):
    clip = shutil.copy(films / "constant.mp4", tmp_path / "clip.mp4")
    facts = {"window": {"num_frames": 4, "sample_fps": 4.0}}
    old = from_every_source(tmp_path / "s", clip, [("ear", 3.0, 1.0)], **facts)["memory"]
    draw = view_draws(old, 1)[0]
    before = window_pixels(old, draw)
    write_video(clip, numbered_frames(120, first=500), 15, crf=12)
    again = load_events(old.config, "val", spec=NUMBERS, cache=old.cache)
    assert not torch.equal(window_pixels(again, draw), before) and min(numbers_of(again, draw)) > 500


def test_cached_frames_are_the_nearest_at_an_odd_rate(tmp_path):
    study = numbered_study(tmp_path, 14.99)
    same = {"geometry": {"policy": "squash", "size_px": 96}, "spec": InputSpec(8, 96, *[(0.5,) * 3] * 2), "window": {"sample_fps": 6.0}}
    kept, config = load(study=study, **same)
    fresh, _ = load(study=study, loader={"cache_mb": 0}, **same)
    for epoch in range(10):
        for draw in train_draws(kept, config, 0, epoch):
            assert torch.equal(window_pixels(kept, draw), window_pixels(fresh, draw))
    info = probe(kept.events[0].path)
    at_s, frames = inputs.decode_event(kept.events[0])
    assert np.allclose(np.diff(at_s), 1 / info.fps, atol=1e-3) and len(frames) == len(at_s)      # every frame, once


def test_nearest_breaks_ties_as_read_frames_does(tmp_path):
    clip = write_video(tmp_path / "n.mp4", (numbered_frame(k) for k in range(20)), 10, crf=10)
    times = np.arange(0, 1.9, 0.05)
    at_s = np.arange(20) / 10
    assert np.allclose(at_s[nearest(at_s, times)], read_frames(clip, times)[1], atol=1e-4)
    assert nearest(np.array([2.0]), times[:3]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_full_cache_the_second_epoch_does_not_decode(workers, monkeypatch):
    events, config = load(cache=FrameCache(200))
    events.warm_cache()
    first = list(train_batches(events, config, 0, 0, workers=workers))
    def no_file(*args, **kwargs): raise AssertionError("decoded again")
    monkeypatch.setattr(inputs, "read_frames", no_file)
    assert len(list(train_batches(events, config, 0, 1, workers=workers))) == len(first)
    assert len(events.cache.decoded) == 24


def test_the_budget_holds_and_the_most_drawn_are_kept():
    events, config = load(loader={"cache_mb": 4})
    list(train_batches(events, config, 0, 0))
    events.warm_cache()
    assert 0 < len(events.cache.admitted) < 24 and events.cache.used_mb <= 4
    kept = [e.label for e in events.events if e.key in events.cache.admitted]
    assert np.mean(kept) > events.label.mean()      # tail events come back more often
    shared = FrameCache(4)
    both = [load(part, cache=shared)[0] for part in ("train", "val")]
    for e in both:
        e.warm_cache()
    assert shared.used_mb <= 4 and shared is both[0].cache is both[1].cache


def test_sets_of_one_process_share_its_budget():
    train, val = (load(part, loader={"cache_mb": 5})[0] for part in ("train", "val"))
    again, _ = load("train", loader={"cache_mb": 5})
    for e in (train, val, again):
        e.warm_cache()
    assert train.cache is val.cache is again.cache and train.cache.used_mb <= 5
    assert len(set(train.cache.decoded)) == len(train.cache.decoded) == len(train.cache.kept)


def test_decoding_a_long_event_in_pieces_gives_each_frame_once(tmp_path):
    study = numbered_study(tmp_path, 10.0, seconds=30.0, event=(3.0, 24))
    events, _ = load(study=study, geometry={"policy": "squash", "size_px": 96}, spec=InputSpec(8, 96, *[(0.5,) * 3] * 2), augment={k: 0.0 for k in ("rotate_deg", "scale", "shift")})
    at_s, frames = inputs.decode_event(events.events[0])
    numbers = [read_number(f.permute(1, 2, 0).numpy()) for f in frames]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 240
    assert np.allclose(at_s, np.array(numbers) / 10, atol=1e-3)


def on_disk(folder, mb=200, memory_mb=0):
    return FrameCache(memory_mb, mb, folder)


def files(folder):
    return sorted(folder.glob("*.frames")) if folder.exists() else []


@pytest.mark.parametrize("policy", POLICIES)
def test_windows_from_disk_are_those_from_the_clip(policy, tmp_path):
    kept, config = load(geometry={"policy": policy}, cache=on_disk(tmp_path))
    fresh, _ = load(geometry={"policy": policy}, loader={"cache_mb": 0})
    for draw in train_draws(kept, config, 0, 0)[:8]:
        assert torch.equal(window_pixels(kept, draw), window_pixels(fresh, draw))
        assert torch.equal(window_pixels(kept, draw), window_pixels(fresh, draw))     # decoded the first time, read the second
    assert kept.cache.decoded and kept.cache.used_mb == 0 and len(files(tmp_path)) == len(kept.cache.decoded)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_cache_on_disk_the_second_epoch_and_the_next_run_do_not_decode(workers, monkeypatch, tmp_path):
    events, config = load(cache=on_disk(tmp_path))
    first = list(train_batches(events, config, 0, 0, workers=workers))
    events.warm_cache()
    again, _ = load(cache=on_disk(tmp_path))
    def no_file(*args, **kwargs): raise AssertionError("decoded again")
    monkeypatch.setattr(inputs, "read_frames", no_file)
    for e in (events, again):
        later = list(train_batches(e, config, 0, 0, workers=workers))
        assert all(torch.equal(a.video, b.video) for a, b in zip(first, later, strict=True))
    assert not again.cache.decoded


def test_the_disks_budget_holds_and_old_files_make_room(tmp_path):
    some, _ = load(cache=on_disk(tmp_path, 2.0))
    some.warm_cache()
    used = sum(f.stat().st_size for f in files(tmp_path)) / 1e6
    assert 0 < len(some.cache.on_disk) < 24 and 0.5 < used <= 2.0
    other, _ = load(cache=on_disk(tmp_path, 2.0), geometry={"roi_context": 2.5})
    assert not set(other.cache.on_disk.values()) & set(some.cache.on_disk.values())
    other.warm_cache()
    assert sum(f.stat().st_size for f in files(tmp_path)) / 1e6 <= 2.0 and set(other.cache.on_disk.values()) <= set(files(tmp_path))


def test_memory_first_then_disk_then_the_clip(tmp_path):
    events, config = load(cache=on_disk(tmp_path, 2.0, memory_mb=3.0))
    events.warm_cache()
    cache = events.cache
    assert cache.admitted and cache.on_disk and len(cache.admitted) + len(cache.on_disk) < 24 and not cache.admitted & cache.on_disk.keys()
    fresh, _ = load(loader={"cache_mb": 0})
    for draw in train_draws(events, config, 0, 1):
        assert torch.equal(window_pixels(events, draw), window_pixels(fresh, draw))


def test_a_torn_or_vanished_file_of_the_cache_is_decoded_again(tmp_path):
    events, config = load(cache=on_disk(tmp_path))
    draw = train_draws(events, config, 0, 0)[0]
    before = window_pixels(events, draw)
    path = events.cache.on_disk[events.events[draw.row].key]
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-9]), path.unlink, lambda: path.write_bytes(b"")):
        spoil()
        assert torch.equal(window_pixels(events, draw), before)
    assert not [f for f in tmp_path.iterdir() if ".part" in f.name]


def test_another_clip_of_the_same_name_is_another_file(study, tmp_path):
    events, _ = load(study=study, cache=on_disk(tmp_path))
    before = events.cache.on_disk[events.events[0].key]
    clip = events.events[0].path
    clip.touch()
    again, _ = load(study=study, cache=on_disk(tmp_path))
    assert again.cache.on_disk[again.events[0].key] != before


@pytest.mark.parametrize("augment", [SHAKY, {"trivial": True, "shift": 0.1}], ids=["ours", "trivial"])
def test_changes_made_on_the_device_are_those_of_the_workers(augment):
    here, config = load(augment=augment)
    there, config_there = load(augment=augment, loader={"transforms": "device"})
    for a, b in zip(train_batches(here, config, 0, 1), train_batches(there, config_there, 0, 1, device="cpu"), strict=True):
        assert torch.equal(a.video, b.video) and a.video.dtype == torch.float32
    for a, b in zip(eval_batches(here, config), eval_batches(there, config_there, workers=2), strict=True):
        assert torch.equal(a.video, b.video)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_changes_made_on_a_gpu_are_those_of_the_workers_to_a_rounding():
    here, config = load()
    there, config_there = load(loader={"transforms": "device"})
    for a, b in zip(train_batches(here, config, 0, 1), train_batches(there, config_there, 0, 1, device="cuda"), strict=True):
        off = (a.video - b.video.cpu()).abs()
        assert off.median() < 1e-5 and off.max() < 0.1


CHILD = """
import pickle, re, sys
import torch
torch.set_num_threads(1)
events, draws = pickle.load(open(sys.argv[1], "rb"))
from crosssuck.inputs import assemble
def status(key): return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1000
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
for k in range(0, len(draws), 2): assemble(events, draws[k:k + 2])
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("cached", [False, True])
def test_a_workers_memory_is_bounded_on_4k(tmp_path, cached):
    "A process that does a worker's job on clips of 3840 x 2160 px takes no more than `worker_mb` says."
    name, n = "evt_0000_ear.mp4", 40
    folder = tmp_path / "s"
    (folder / "split").mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (2160 // 16, 3840 // 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    write_video(folder / "clips" / name, (np.roll(noise, 8 * k, 1) for k in range(n)), 15, crf=30, preset="ultrafast", bframes=2)
    shutil.copy(folder / "clips" / name, folder / "clips" / "evt_0001_tail.mp4")
    rows = [{"event_idx": i, "group": 1, "day": 1, "behavior": b, "duration_sec": 1, "start_s": 1000.0 * (i + 1), "clip_path": f"evt_{i:04d}_{b}.mp4", "clip_event_offset_s": 0.3,
             "clip_duration_s": n / 15, "clip_fps": 15, "clip_width_px": 3840, "clip_height_px": 2160, "source_width_px": 3840, "source_height_px": 2160, "status": "ok", "error": ""}
            for i, b in enumerate(("ear", "tail"))]
    pd.DataFrame(rows).to_csv(folder / "clips" / "clips.csv", index=False)
    pd.DataFrame(rows).to_csv(folder / "split" / "train.csv", index=False)
    (folder / "split" / "split.json").write_text(json.dumps({"scheme": "bout", "split_seed": 42}))
    events, config = load(study=folder, geometry={"policy": "center", "size_px": 224, "short_side_px": 256}, spec=InputSpec(16, 224, *[(0.5,) * 3] * 2),
                          window={"num_frames": 16, "sample_fps": 12.0}, loader={"cache_mb": 0}, optim={"batch_size": 2}, cache=on_disk(tmp_path / "cache") if cached else FrameCache(0))
    config = replace(config, loader=replace(config.loader, disk_mb=200 if cached else 0))
    stated = worker_mb(config, 3840, 2160)
    with open(tmp_path / "job", "wb") as f:
        pickle.dump((events, train_draws(events, config, 0, 0)), f)
    used = float(subprocess.run([sys.executable, "-c", CHILD, tmp_path / "job"], capture_output=True, text=True, check=True).stdout)
    print(f"{used:.0f} MB taken, {stated:.0f} stated")
    assert 0.15 * stated < used <= stated < 600, (used, stated)


def test_doctor_states_the_memory_of_a_worker(root):
    from typer.testing import CliRunner

    from crosssuck.cli import app
    said = CliRunner().invoke(app, ["doctor", "--config", str(root / "configs" / "demo_v4_roi.yaml")]).output
    assert "memory of a loader worker: at most 0." in said and "GB on 4K clips" in said and "8 frames of 64 px, batch 16" in said and "a cache of 2.5 GB" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_breaks_later_stops_the_run_by_name(study, workers):
    events, config = load(study=study, loader={"cache_mb": 0}, optim={"batch_size": 4})
    path = events.events[5].path
    path.write_bytes(b"no video at all" * 50)
    with pytest.raises(UserError, match=path.name) as e:
        list(train_batches(events, config, 0, 0, workers=workers) if 5 in [d.row for d in train_draws(events, config, 0, 0)] else eval_batches(events, config, workers=workers))
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


@pytest.mark.lab
def test_the_labs_events_with_two_truths(lab, tmp_path):
    "As the lab's files say: 29 events with the other behaviour in the padded clip, ten pairs that overlap themselves."
    table = pd.read_csv(lab / "MASTER_LINKED_v4.csv", dtype=str, keep_default_na=False)
    length = table.duration_sec.astype(float) + 1
    table = table.assign(start_s=pd.to_timedelta(table.start_time).dt.total_seconds(), clip_path="-", status="ok", clip_event_offset_s=3.0, clip_duration_s=length + 6,
                         clip_fps=15, clip_width_px=568, clip_height_px=320, source_width_px=3840, source_height_px=2160)
    table.to_csv(tmp_path / "clips.csv", index=False)
    clips = inputs.read_clips(tmp_path / "clips.csv").query("behavior in ('ear', 'tail')")
    held = [overlap((3.0, 4.0 + d), o) > 0 for d, o in zip(clips.duration_sec, clips.others, strict=True)]
    assert (len(clips), int((clips.others.map(len) > 0).sum()), sum(held)) == (1876, 29, 20)
