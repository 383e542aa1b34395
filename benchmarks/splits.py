"How long splitting and auditing take, at the lab's size and at a hundred thousand events: python benchmarks/splits.py"
import resource
import statistics
import time

import pandas as pd

from crosssuck.simulation import tiny_events
from crosssuck.splits import audit_split, split_events, split_folds

SMALL = tiny_events(1900, seed=2)
LARGE = pd.concat([SMALL.assign(group=SMALL.group + 10 * k, event_idx=SMALL.event_idx + 1900 * k) for k in range(53)], ignore_index=True).head(100_000)


def seconds(call, times: int) -> tuple[float, float]:
    "Medians of the seconds on the clock and of this process's own."
    wall, own = [], []
    for _ in range(times):
        a, b = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - a)
        own.append(time.process_time() - b)
    return statistics.median(wall), statistics.median(own)


def main() -> None:
    print("| events | call | median of | s on the clock | s of the processor |\n|---|---|---|---|---|")
    for events in (SMALL, LARGE):
        split = split_events(events)
        for name, call in (("`split_events`, bouts", lambda e=events: split_events(e)), ("`split_folds`, six groups out", lambda: split_folds(SMALL)), ("`audit_split`", lambda s=split: audit_split(**s.sides))):
            if name.startswith("`split_folds`") and events is LARGE:
                continue
            wall, own = seconds(call, 5)
            print(f"| {len(events):,} | {name} | 5 | {wall:.2f} | {own:.2f} |", flush=True)
    print(f"\nlargest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
