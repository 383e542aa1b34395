"What the benchmarks of video share: the generated 4K segment, the words about the machine, a Markdown table."
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from crosssuck.core import atomic_path, find_ffmpeg, progress, project_root
from crosssuck.simulation import SimulationSettings, film, plan_recordings
from crosssuck.video import numbered_frame, read_number

WIDTH, HEIGHT, FPS, SECONDS, GOP = 3840, 2160, 15, 120, 30
STAMP = (640, 96)  # px; the frame's number, where a recorder writes its clock


def shows(segment: Path) -> str:
    "Say what the segment is."
    return (f"five drawn calves that walk and stand in a straw pen, with grain; {WIDTH} × {HEIGHT}, {FPS} fps, {SECONDS} s, H.264 with a key frame every {GOP} frames, "
            f"{segment.stat().st_size * 8e-6 / SECONDS:.1f} Mbit/s (the lab's recorder is set to 4.2; this picture needs no more)")


def pictures():
    "Film the pen at 4K; each picture carries its number in the lower left corner."
    settings = SimulationSettings(seed=3)
    busiest = max((r for r in plan_recordings(settings) if r.group == 1), key=lambda r: len(r.acts))
    recording = replace(busiest, length_s=SECONDS, cut_s=0)
    for n, frame in enumerate(film(recording, settings, times=np.arange(FPS * SECONDS) / FPS, size_px=(WIDTH, HEIGHT))):
        frame[-STAMP[1]:, :STAMP[0]] = numbered_frame(n, *STAMP)
        yield frame


def number_of(frame: np.ndarray) -> int:
    "Read the number in a picture of any size."
    return number_of_corner(frame, frame.shape[0])


def number_of_corner(corner: np.ndarray, height_px: int) -> int:
    "Read the number in the lower left corner of a picture that is `height_px` high."
    height, width = (round(side * height_px / HEIGHT) for side in (STAMP[1], STAMP[0]))
    return read_number(corner[-height:, :width])


def make_segment(folder: Path) -> Path:
    "Make the segment, once."
    path = folder / "segment.mp4"
    if path.exists():
        return path
    with atomic_path(path) as part:
        command = [find_ffmpeg(), "-nostdin", "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-",
                   "-c:v", "libx264", "-preset", "veryfast", "-b:v", "4.2M", "-maxrate", "4.2M", "-bufsize", "8.4M", "-bf", "0", "-g", str(GOP), "-keyint_min", str(GOP),
                   "-sc_threshold", "0", "-movflags", "+faststart", str(part)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as job:
            for frame in progress(pictures(), "drawing the segment", total=FPS * SECONDS, unit=" frame"):
                job.stdin.write(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
            job.stdin.close()
            if job.wait():
                raise SystemExit("ffmpeg could not write the segment")
    return path


def default_folder() -> Path:
    return project_root(__file__) / "data/benchmark"


def machine() -> str:
    "Name the machine and the versions that a figure belongs to."
    from importlib.metadata import PackageNotFoundError, version
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "") if Path("/proc/cpuinfo").exists() else platform.processor()
    words = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True).stdout.split()
    def has(name):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return None
    libraries = ", ".join(filter(None, map(has, ("av", "opencv-python-headless", "pytorchvideo", "torch", "numpy"))))
    load = f"; load when it began {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores ({model}), Python {platform.python_version()}, ffmpeg {words[2] if len(words) > 2 else '?'}, {libraries}; {time.strftime('%Y-%m-%d')}{load}"


def markdown(head: list[str], rows: list[list]) -> str:
    "Lay a table out as Markdown."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    print(make_segment(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()))
