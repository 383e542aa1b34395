"Odd videos for the tests: each frame carries its number, each file a habit that real recordings have."
import subprocess
from pathlib import Path

import numpy as np

from crosssuck.core import find_ffmpeg
from crosssuck.video import numbered_frame, write_video


def uneven(n: int, seed: int = 0) -> np.ndarray:
    "Times of n frames that come irregularly, in s from 0."
    steps = np.random.default_rng(seed).uniform(0.03, 0.12, n)
    return np.cumsum(steps) - steps[0]


def frames(n: int, first: int = 0, size=(160, 90)):
    "Numbered frames with some grain, so that no two are alike."
    grain = np.random.default_rng(9).integers(0, 26, (size[1], size[0], 1)).astype(np.uint8)
    return (np.maximum(numbered_frame(i, *size), np.roll(grain, 7 * i, 1)) for i in range(first, first + n))


def remux(source: Path, target: Path, *options: str) -> Path:
    subprocess.run([find_ffmpeg(), "-nostdin", "-y", "-v", "error", *options, "-i", str(source), "-c", "copy", str(target)], check=True)
    return target


def make(folder: Path, kind: str, n: int = 300, first: int = 0) -> tuple[Path, np.ndarray]:
    "Make a video of a kind; returns its path and the true time of each frame after the first."
    path, even = folder / f"{kind}_{first}.mp4", np.arange(n) / 15
    if kind == "constant":
        return write_video(path, frames(n, first), 15), even
    if kind == "b_frames":
        return write_video(path, frames(n, first), 15, bframes=3, gop=45), even
    if kind == "late_start":
        return write_video(path, frames(n, first), 15, gop=45, start_s=1234.567), even
    if kind == "all_key":
        return write_video(path, frames(n, first), 15, gop=1), even
    if kind == "nasty":
        return write_video(path, frames(n, first), 15, bframes=2, gop=60, times_s=uneven(n), start_s=7.3), uneven(n)
    if kind == "matroska":
        write_video(path, frames(n, first), 15, bframes=2, gop=45, start_s=3)
        return remux(path, path.with_suffix(".mkv")), even
    if kind == "sound_first":  # the sound begins 0.8 s before the picture
        write_video(folder / "silent.mp4", frames(n, first), 15, gop=45, bframes=2)
        command = ["-f", "lavfi", "-t", str(n / 15), "-i", "anullsrc=r=8000:cl=mono", "-itsoffset", "0.8", "-i", str(folder / "silent.mp4"), "-map", "1:v", "-map", "0:a"]
        subprocess.run([find_ffmpeg(), "-nostdin", "-y", "-v", "error", *command, "-c:v", "copy", "-c:a", "aac", str(path)], check=True)
        return path, even
    raise ValueError(kind)


KINDS = ("constant", "b_frames", "late_start", "all_key", "nasty", "matroska", "sound_first")
