"Odd videos for the tests: each frame carries its number, each file a habit that real recordings have."
import subprocess
from pathlib import Path

import av
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


def encode(path: Path, pictures, codec: str, pix_fmt: str = "yuv420p", **options: str) -> Path:
    "Encode at 15 fps with any of the encoder's own options."
    with av.open(str(path), "w") as container:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = container.add_stream(codec, rate=15, options={k: str(v) for k, v in options.items()})
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pix_fmt
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


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
    if kind == "variable":
        return write_video(path, frames(n, first), 15, gop=45, times_s=uneven(n)), uneven(n)
    if kind == "open_gop":  # pictures after a key frame may lean on those before it
        return encode(path, frames(n, first), "libx264", g=45, bf=3, preset="veryfast", **{"x264-params": "open-gop=1:b-adapt=0"}), even
    if kind == "hevc":
        return encode(path, frames(n, first), "libx265", preset="ultrafast", **{"x265-params": "keyint=45:bframes=3:open-gop=1:log-level=none"}), even
    if kind == "matroska":
        write_video(path, frames(n, first), 15, bframes=2, gop=45, start_s=3)
        return remux(path, path.with_suffix(".mkv")), even
    if kind == "sound_first":  # the sound begins 0.8 s before the picture
        write_video(folder / "silent.mp4", frames(n, first), 15, gop=45, bframes=2)
        command = ["-f", "lavfi", "-t", str(n / 15), "-i", "anullsrc=r=8000:cl=mono", "-itsoffset", "0.8", "-i", str(folder / "silent.mp4"), "-map", "1:v", "-map", "0:a"]
        subprocess.run([find_ffmpeg(), "-nostdin", "-y", "-v", "error", *command, "-c:v", "copy", "-c:a", "aac", str(path)], check=True)
        return path, even
    raise ValueError(kind)


KINDS = ("constant", "variable", "b_frames", "late_start", "all_key", "nasty", "open_gop", "hevc", "matroska", "sound_first")
