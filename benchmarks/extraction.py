"""Extraction from a 4K segment: copy, archive and proxy beside plain ffmpeg and OpenCV, one event after the other, in turns.

    .venv/bin/python benchmarks/extraction.py [--rounds 5] [--folder data/benchmark]

The first call draws the segment (some minutes). Prints the table as Markdown.
"""
import argparse
import os
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import cv2
import pandas as pd
from segment import FPS, SECONDS, default_folder, machine, make_segment, markdown, number_of, shows

from crosssuck import video
from crosssuck.core import find_ffmpeg
from crosssuck.extraction import PAD_S, cores, extract
from crosssuck.video import probe, read_frames

EVENT_S = 4.0  # length of an event; a clip is 3 s longer on either side


def ours(mode, n=1):
    def cut(segment: Path, start_s: float, folder: Path) -> Path:
        video._probe.cache_clear()  # the segment is looked at anew
        starts = [start_s, *(5 + 13 * k for k in range(n - 1))]
        events = pd.DataFrame([dict(event_idx=k, behavior="ear", duration_sec=EVENT_S - 1, event_offset_sec=s, video_path=str(segment)) for k, s in enumerate(starts)])
        clips = extract(events, folder, mode=mode, workers=min(n, cores()))
        assert (clips.status == "ok").all(), clips.error[0]
        return folder / clips.clip_path[0]
    return cut


def plain_ffmpeg(segment: Path, start_s: float, folder: Path) -> Path:
    "What a person types."
    clip = folder / "clip.mp4"
    subprocess.run([find_ffmpeg(), "-nostdin", "-y", "-v", "error", "-ss", str(start_s - PAD_S), "-i", str(segment), "-t", str(EVENT_S + 2 * PAD_S),
                    "-c:v", "libx264", "-preset", "medium", "-crf", "20", "-pix_fmt", "yuv420p", "-an", str(clip)], check=True)
    return clip


def opencv_mp4v(segment: Path, start_s: float, folder: Path) -> Path:
    "How the lab began."
    clip, source = folder / "clip.mp4", cv2.VideoCapture(str(segment))
    source.set(cv2.CAP_PROP_POS_FRAMES, round((start_s - PAD_S) * FPS))
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (int(source.get(cv2.CAP_PROP_FRAME_WIDTH)), int(source.get(cv2.CAP_PROP_FRAME_HEIGHT))))
    for _ in range(round((EVENT_S + 2 * PAD_S) * FPS)):
        writer.write(source.read()[1])
    writer.release()
    return clip


NINE = 9  # the lab has nine events a segment
PLAIN = "plain ffmpeg, libx264 medium, CRF 20"
WAYS = {"`copy`, the event alone": ours("copy"), "`copy`, nine events of the segment in one call": ours("copy", NINE), "`proxy`": ours("proxy"), PLAIN: plain_ffmpeg,
        "`archive`": ours("archive"), "OpenCV, `mp4v`": opencv_mp4v}


def cpu_s() -> float:
    "Seconds of processor time that this process and its children have taken."
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="events, each cut once in every way")
    parser.add_argument("--folder", type=Path, default=default_folder())
    args = parser.parse_args()
    segment, about = make_segment(args.folder), machine()
    os.environ["IN_TEST"] = "1"  # no bars between the lines
    seconds, work_s, megabytes = ({w: [] for w in WAYS} for _ in range(3))
    for n in range(args.rounds):
        start_s = round(10 + n * (SECONDS - 25) / max(1, args.rounds - 1), 1)
        order = list(WAYS)[n % len(WAYS):] + list(WAYS)[:n % len(WAYS)]
        for way in order:
            folder = args.folder / "cut"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            os.sync() if hasattr(os, "sync") else None
            began, before_s = time.perf_counter(), cpu_s()
            clip = WAYS[way](segment, start_s, folder)
            shared = NINE if "nine" in way else 1
            seconds[way].append((time.perf_counter() - began) / shared)
            work_s[way].append((cpu_s() - before_s) / shared)
            megabytes[way].append(clip.stat().st_size / 1e6)
            first = number_of(read_frames(clip, [0])[0][0])
            assert "copy" in way or abs(first - round((start_s - PAD_S) * FPS)) <= 1, f"{way} begins at frame {first}"
            assert probe(clip).duration_s > EVENT_S + 2 * PAD_S - 0.2, way
            print(f"  round {n + 1}, event at {start_s} s, {way}: {seconds[way][-1]:.2f} s, {work_s[way][-1]:.2f} s of processor time, {megabytes[way][-1]:.1f} MB", flush=True)
    def against(way, taken): return statistics.median(p / s for p, s in zip(taken[PLAIN], taken[way], strict=True))
    rows = [[w, f"{statistics.median(seconds[w]):.3g}", f"{min(seconds[w]):.3g}–{max(seconds[w]):.3g}", f"{against(w, seconds):.3g} ×", f"{statistics.median(work_s[w]):.3g}",
             f"{against(w, work_s):.3g} ×", f"{statistics.median(megabytes[w]):.1f}"] for w in WAYS]
    print(f"\nSource: {shows(segment)}. An event of {EVENT_S:.0f} s, its clip of {EVENT_S + 2 * PAD_S:.0f} s; {args.rounds} events, each cut once in every way, in turns; medians. "
          f"Our times hold everything: looking at the segment, planning, cutting, holding the clip against its promise, writing the table.\n\n{about}\n")
    print(markdown(["way", "s an event", "from–to", "as fast as plain ffmpeg", "processor s an event", "as cheap", "MB an event"], rows))


if __name__ == "__main__":
    main()
