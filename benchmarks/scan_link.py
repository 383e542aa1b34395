"""How long the scan of a drive and the linking of its events take, and how much memory: each in a process of its own, medians.

    python benchmarks/scan_link.py [--repeats 5] [--scans 5] [--files 2200] [--events 100000] [--out benchmarks/scan_link.json]

The drive of the scan holds one 4K H.264 film under 2,200 names, so that every file is really opened: its header, its first frame, its last packets.
Seconds on the clock and of the processor both: on a busy machine the first say little.
The linking is that of 100,000 events among 100,000 segments of one camera; then again where three cameras are tried, a tenth of the files cannot be
read, and one file spans all others."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

JOB = """
import json, re, resource, sys, time
import numpy as np, pandas as pd
from pathlib import Path
from crosssuck import cameras as c
what, folder, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def peak_mb():
    "Most memory of this process so far; the kernel's other counter also counts the process that it was forked from."
    status = Path("/proc/self/status")
    if status.exists(): return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

if what == "names":
    paths = c.invent_segments(n).path.tolist()
elif what.startswith("link"):
    rng = np.random.default_rng(0)
    span_s = np.sort(rng.integers(0, n * 60, n))
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(span_s, unit="s")
    clock = when.strftime("%H:%M:%S")
    events = pd.DataFrame({"event_idx": np.arange(n), "group": 1, "day": 1, "date": when.strftime("%m/%d/%Y"), "start_time": clock, "end_time": clock,
                           "duration_sec": 0, "behavior": "ear", "start_s": span_s % 86400.0, "end_s": span_s % 86400 + 1.0})
    inventory, eyes = c.invent_segments(n), c.Cameras(groups={1: {"cameras": [8]}})
    if what == "link, faulty":
        one, eyes = n // 3, c.Cameras(groups={1: {"cameras": [8, 9, 7]}})
        inventory = pd.concat([c.invent_segments(one, camera=k, length_s=180) for k in (8, 9, 7)], ignore_index=True)
        inventory["valid"] = rng.random(len(inventory)) > 0.1
        whole = inventory.path[0].replace("20240101000300", (pd.Timestamp("2024-01-01") + pd.Timedelta(one * 180, "s")).strftime("%Y%m%d%H%M%S"))
        inventory.loc[len(inventory)] = [whole, one * 180 * 15, 15.0, 10**6, True]
before_mb = peak_mb()
begun, begun_cpu = time.perf_counter(), time.process_time()
if what == "names": out = len(c.parse_names(paths))
elif what == "scan": out = c.update_inventory(folder / "drive", folder / "inventory.csv", workers=4).attrs["opened"]
else:
    linked, rest = c.link(events, inventory, eyes)
    out = len(linked)
    assert len(linked) + len(rest) == n
print(json.dumps({"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - begun_cpu, "peak_mb": peak_mb(), "before_mb": before_mb, "result": out}))
"""


def once(what: str, folder: Path, n: int) -> dict:
    "Do a job in a process of its own."
    env = {**os.environ, "IN_TEST": "1"}
    return json.loads(subprocess.run([sys.executable, "-c", JOB, what, str(folder), str(n)], check=True, capture_output=True, text=True, env=env).stdout)


def make_drive(folder: Path, n: int) -> None:
    "Write one short 4K film and give it n names."
    import numpy as np

    from crosssuck.cameras import invent_segments
    from crosssuck.video import numbered_frame, write_video
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(60, 180, (135, 240, 3)), np.ones((16, 16, 1))).astype(np.uint8)

    def picture(k: int) -> np.ndarray:  # grain enough for about 4 Mbit a second, as a recorder writes
        frame = ground + rng.integers(0, 3, (2160, 3840, 1)).astype(np.uint8)
        frame[:200] = numbered_frame(k, 3840, 2160)[:200]
        return frame
    film = write_video(folder / "film.mp4", map(picture, range(45)), 14.99, gop=30, threads=2, crf=26, preset="ultrafast")
    for path in invent_segments(n).path:
        (folder / "drive" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(film, folder / "drive" / path)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--repeats", type=int, default=5)
    ask.add_argument("--scans", type=int, default=5, help="repeats of the first scan, the only one that opens every file")
    ask.add_argument("--files", type=int, default=2200)
    ask.add_argument("--events", type=int, default=100_000)
    ask.add_argument("--out", type=Path)
    given = ask.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_drive(folder, given.files)
        for what, n in (("names", given.files), ("scan", given.files), ("scan again", given.files), ("link", given.events), ("link, faulty", given.events)):
            got = []
            for _ in range(given.scans if what == "scan" else given.repeats):
                if what == "scan":
                    (folder / "inventory.csv").unlink(missing_ok=True)
                got.append(once("scan" if what == "scan again" else what, folder, n))
            rows[what] = {"n": n, "result": got[0]["result"], **{k: round(statistics.median(g[k] for g in got), 3) for k in ("seconds", "cpu_s", "peak_mb", "before_mb")},
                          "seconds_all": [round(g["seconds"], 3) for g in got]}
            print(f"{what:13} {n:7,} {rows[what]['seconds']:8.2f} s, {rows[what]['cpu_s']:.2f} s of processor, {rows[what]['peak_mb']:7.0f} MB at most ({rows[what]['before_mb']:.0f} before)", flush=True)
    facts = {"python": platform.python_version(), "cpus": os.cpu_count(), "rows": rows}
    if given.out:
        given.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
