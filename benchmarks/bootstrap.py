"""10,000 clustered resamples of every metric over 361 events in 176 bouts, on one core; beside it the same done draw by draw with scikit-learn.

    python benchmarks/bootstrap.py [--resamples 10000] [--events 361] [--bouts 176]
"""
# ruff: noqa: E402
import argparse
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import time
import tracemalloc

import numpy as np
from sklearn import metrics as sk

from crosssuck.metrics import METRICS, Scorer, intervals, resample


def study(n_events: int, n_bouts: int, seed: int = 0):
    "As many events in as many bouts as asked, one in ten a tail, scores that know a little."
    rng = np.random.default_rng(seed)
    bout = np.sort(np.concatenate([np.arange(n_bouts), rng.integers(0, n_bouts, n_events - n_bouts)]))
    is_tail = (rng.random(n_bouts) < 0.105)[bout]
    score = 0.7 * rng.normal(size=n_bouts)[bout] + 0.7 * rng.normal(size=n_events) + 0.5 * is_tail
    return is_tail, 1 / (1 + np.exp(1 - score)), bout


def draw_by_draw(is_tail, prob, bout, n: int):
    "The plain way: draw bouts, gather their events, call scikit-learn once for each metric."
    members, rng = [np.flatnonzero(bout == b) for b in np.unique(bout)], np.random.default_rng(0)
    for _ in range(n):
        i = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        y, p = is_tail[i], prob[i]
        call = p >= 0.5
        sk.accuracy_score(y, call), sk.brier_score_loss(y, p), sk.roc_auc_score(y, p), sk.average_precision_score(y, p)
        sk.precision_recall_fscore_support(y, call, zero_division=0), sk.f1_score(y, call, average="macro", zero_division=0)
        for b in range(10):  # one kind of ECE
            inside = np.minimum((np.maximum(p, 1 - p) * 10).astype(int), 9) == b
            inside.any() and abs((call == y)[inside].mean() - np.maximum(p, 1 - p)[inside].mean())


def timed(f, *args, **kwargs):
    "Seconds on the clock and of the processor."
    wall, cpu = time.perf_counter(), time.process_time()
    f(*args, **kwargs)
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    ask = argparse.ArgumentParser()
    for name, default in (("resamples", 10_000), ("events", 361), ("bouts", 176)):
        ask.add_argument(f"--{name}", type=int, default=default)
    a = ask.parse_args()
    is_tail, prob, bout = study(a.events, a.bouts)
    scorer = Scorer(is_tail, prob, bout)
    resample(scorer, 100, 0)
    wall, cpu = timed(resample, scorer, a.resamples, 0)
    whole_wall, whole_cpu = timed(intervals, is_tail, prob, bout, n_boot=a.resamples)
    tracemalloc.start()
    resample(scorer, a.resamples, 0)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.reset_peak()
    resample(scorer, 10 * a.resamples, 0)
    more = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    few = max(a.resamples // 100, 1)
    slow_cpu = timed(draw_by_draw, is_tail, prob, bout, few)[1] * a.resamples / few
    print(f"{a.resamples:,} resamples of {len(METRICS)} metrics, {a.events} events in {a.bouts} bouts, one core")
    print(f"  all draws                {cpu:6.2f} s of the processor, {wall:6.2f} s on the clock")
    print(f"  intervals of all metrics {whole_cpu:6.2f} s of the processor, {whole_wall:6.2f} s on the clock")
    print(f"  peak memory              {peak:6.1f} MB; with ten times the resamples {more:.1f} MB, of which {13 * 8 * 10 * a.resamples / 1e6:.1f} MB are the results")
    print(f"  draw by draw, scikit-learn {slow_cpu:5.0f} s of the processor (from {few} draws): {slow_cpu / cpu:.0f} times as long")


if __name__ == "__main__":
    main()
