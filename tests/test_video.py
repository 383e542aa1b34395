"Reading and writing video: the right frame for every time, honest refusals, whole files or none."
import subprocess
import sys

import numpy as np
import pytest
from videos import KINDS, frames, make

from crosssuck.core import UserError, find_ffmpeg
from crosssuck.video import film_strip, iter_frames, numbered_frame, picture_grid, probe, read_frames, read_number, write_video


@pytest.fixture(scope="module", params=KINDS)
def odd(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp(request.param), request.param)


def test_nearest_frame_of_any_time(odd):
    path, true_s = odd
    asked_s = np.random.default_rng(0).uniform(0, 0.93 * true_s[-1], 60)
    got, times_s = read_frames(path, asked_s)
    distance_s = np.abs(true_s[[read_number(f) for f in got]] - asked_s)
    assert np.allclose(distance_s, np.abs(true_s[None] - asked_s[:, None]).min(1), atol=2e-3)
    assert np.allclose(times_s, true_s[[read_number(f) for f in got]], atol=2e-3)


def test_order_and_repeats_are_kept(odd):
    path, true_s = odd
    wanted = [40, 3, 3, 200, 0, 199]
    got, times_s = read_frames(path, true_s[wanted])
    assert [read_number(f) for f in got] == wanted and len(times_s) == 6


def test_every_frame_alone_equals_all_in_a_row(odd):
    path, true_s = odd
    row = {read_number(f): (t, f) for t, f in iter_frames(path)}
    for n in (0, 1, 44, 45, 46, 131):
        frame, time_s = read_frames(path, [true_s[n]])
        assert np.array_equal(frame[0], row[n][1]) and time_s[0] == pytest.approx(row[n][0])


def test_stretches_that_meet_share_no_frame(odd):
    path, true_s = odd
    cuts = [0.0, float(true_s[31]), 5.5, None]
    got = [read_number(f) for a, b in zip(cuts, cuts[1:], strict=False) for _, f in iter_frames(path, a, b)]
    assert got == list(range(300))


def test_probe_tells_the_truth(odd):
    path, true_s = odd
    info = probe(path)
    assert (info.width_px, info.height_px, info.codec) == (160, 90, "hevc" if "hevc" in path.name else "h264")
    last_s = list(iter_frames(path))[-1][0]
    assert last_s < info.duration_s < last_s + 0.2 and info.n_frames == pytest.approx(300, abs=1)


def test_region_and_size(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames(10, size=(320, 180)), 15, crf=10)
    whole = read_frames(path, [0.2])[0][0]
    part = read_frames(path, [0.2], box=(101, 51, 60, 40))[0][0]
    assert part.shape == (40, 60, 3) and np.abs(part.astype(int) - whole[51:91, 101:161]).mean() < 3
    assert read_frames(path, [0.2], short_side_px=90)[0].shape == (1, 90, 160, 3)
    assert read_frames(path, [0.2], box=(10, 10, 50, 100), short_side_px=25)[0].shape == (1, 50, 25, 3)
    assert read_frames(path, [0.2], box=(10, 10, 50, 100), size_px=32)[0].shape == (1, 32, 32, 3)
    assert read_frames(path, [0.2], size_px=(20, 30))[0].shape == (1, 20, 30, 3)


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 321, 10), (0, 0, 0, 10), (300, 170, 30, 30)])
def test_region_outside_the_picture(tmp_path, box):
    path = write_video(tmp_path / "v.mp4", frames(3, size=(320, 180)), 15)
    with pytest.raises(UserError, match="v.mp4: the region .* 320 × 180 px"):
        read_frames(path, [0], box=box)


def test_times_outside(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames(30), 15)
    for wrong in (-0.5, 2.2, 1e9):
        with pytest.raises(UserError, match="v.mp4: the time .* outside the video of 2.000 s"):
            read_frames(path, [1, wrong])
    for wrong in ([], [np.nan], [[1]]):
        with pytest.raises(UserError, match="finite numbers"):
            read_frames(path, wrong)
    assert [read_number(f) for f in read_frames(path, [-9, 99], beyond="clamp")[0]] == [0, 29]
    assert [read_number(f) for f in read_frames(path, [0, 2.0])[0]] == [0, 29]  # a frame's length of tolerance


def test_what_is_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("text " * 1000)
    (tmp_path / "._a.mp4").write_bytes(b"\0" * 4096)
    subprocess.run([find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "anullsrc", "-t", "1", str(tmp_path / "sound.m4a")], check=True)
    for name, words in {"empty.mp4": "is empty", "text.mp4": "cannot be read", "._a.mp4": "Mac", "sound.m4a": "no video stream", "none.mp4": "no such file", "": "folder"}.items():
        for call in (probe, lambda p: read_frames(p, [0]), lambda p: list(iter_frames(p))):
            with pytest.raises(UserError, match=words) as e:
                call(tmp_path / name)
            assert name in str(e.value) and "\n" not in str(e.value) and e.value.remedy


def test_damage_is_never_papered_over(tmp_path):
    rng = np.random.default_rng(0)
    noisy = (np.concatenate([rng.integers(0, 255, (40, 160, 3)).astype(np.uint8), f[40:]]) for f in frames(150))
    path = write_video(tmp_path / "v.mp4", noisy, 15, gop=30)
    data = path.read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(data[:len(data) // 2])
    assert read_number(read_frames(half, [1.0])[0][0]) == 15
    for beyond in ("error", "clamp"):
        with pytest.raises(UserError, match="half.mp4"):
            read_frames(half, [9.0], beyond=beyond)
    hole = tmp_path / "hole.mp4"
    hole.write_bytes(data[:len(data) // 2] + bytes(len(data) // 8) + data[len(data) * 5 // 8:])
    with pytest.raises(UserError, match="hole.mp4"):
        list(iter_frames(hole))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames(5), 15)
    before = path.read_bytes()

    def breaks():
        yield numbered_frame(0)
        raise RuntimeError("half-way")
    with pytest.raises(RuntimeError):
        write_video(path, breaks(), 15)
    for wrong in ([], [numbered_frame(0, 161)], [numbered_frame(0)[..., 0]], [numbered_frame(0), numbered_frame(0, 320, 180)], [numbered_frame(0) / 255]):
        with pytest.raises(UserError, match="v.mp4"):
            write_video(path, wrong, 15)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_same_frames_same_bytes(tmp_path):
    a, b = (write_video(tmp_path / n, frames(40), 14.99, bframes=2).read_bytes() for n in ("a.mp4", "b.mp4"))
    assert a == b


def test_a_changed_file_is_probed_again(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames(15), 15)
    assert probe(path).n_frames == 15
    write_video(path, frames(40), 15)
    assert probe(path).n_frames == 40


def test_layouts():
    pictures = [numbered_frame(i) for i in range(5)]
    assert len(film_strip(pictures, list("abcde"), inside=[True] * 5).axes) == 5
    grid = picture_grid([pictures, pictures[:2]], ["one", "two"], titles=[list("abcde"), list("ab")], title="both")
    assert [a.get_ylabel() for a in grid.axes[::5]] == ["one", "two"] and len(grid.axes) == 10


def test_ffmpegs_library_says_nothing_beside_our_line(tmp_path):
    "A file whose index, at its end, was cut off: with the library's own way of speaking it says so on stderr."
    whole = write_video(tmp_path / "v.mp4", frames(40), 15)
    subprocess.run([find_ffmpeg(), "-v", "error", "-i", whole, "-c", "copy", tmp_path / "last.mp4"], check=True)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "last.mp4").read_bytes()[:4000])
    code = """
import sys, av.logging
from crosssuck.core import UserError
from crosssuck.video import probe
av.logging.restore_default_callback()
try: probe(sys.argv[1])
except UserError as e: print(e)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "cut.mp4"], capture_output=True, text=True, check=True)
    assert "cut.mp4: cannot be read as video" in done.stdout and done.stderr == ""


def test_import_is_light():
    code = "import sys, crosssuck.video; print([m for m in ('torch', 'matplotlib', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
