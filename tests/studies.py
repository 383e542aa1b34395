"""Simulated studies with the lab's numbers of events, bouts and tail events, for tests of statistical claims.

A study has a latent score `shift * is_tail + sqrt(icc) * bout effect + sqrt(1 - icc) * noise`, where
`shift = sqrt(2) * inverse normal CDF(auc)`, so that the ROC AUC of the population is exactly `auc`.
Probabilities are a logistic function of the score. Rule of this project: rejections under the null
<= 7 % of a nominal 5 %, coverage >= 93 % of a nominal 95 %, over at least 2,000 studies in the long
tier; fewer, with a bound that allows for the smaller number, in the quick one.
"""
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binom, norm

LONG, QUICK = 2000, 200  # studies in the long and in the quick tier


@dataclass(frozen=True)
class Structure:
    "How the events of a study lie in bouts: totals of the lab's tables."
    sizes: dict[int, int]  # events of a bout -> number of such bouts
    pure: dict[int, int]   # events of a bout that holds tail events alone -> number of such bouts
    mixed: dict[int, int]  # tail events of a bout that holds both -> number of such bouts

    @property
    def n_events(self) -> int:
        return sum(size * k for size, k in self.sizes.items())

    @property
    def n_bouts(self) -> int:
        return sum(self.sizes.values())

    @property
    def n_tail(self) -> int:
        return sum(n * k for part in (self.pure, self.mixed) for n, k in part.items())


VALIDATION = Structure({1: 98, 2: 37, 3: 16, 4: 10, 5: 8, 6: 3, 7: 1, 12: 3},
                       {1: 19, 2: 3}, {1: 6, 2: 2, 3: 1})
OOD = Structure({1: 57, 2: 18, 3: 5, 4: 3, 5: 3, 6: 1}, {1: 10, 2: 1}, {})


def labels(structure: Structure, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    "is_tail (n,) bool and bout (n,) int, sorted by bout; which bouts hold tail events is drawn."
    size = rng.permutation(np.repeat(list(structure.sizes), list(structure.sizes.values())))
    tails = np.zeros(len(size), int)
    for n, k in structure.pure.items():
        tails[rng.choice(np.flatnonzero(size == n), k, replace=False)] = n
    for n, k in structure.mixed.items():
        tails[rng.choice(np.flatnonzero((size > n) & (tails == 0)), k, replace=False)] = n
    bout = np.repeat(np.arange(len(size)), size)
    place = np.arange(len(bout)) - np.repeat(size.cumsum() - size, size)
    return place < tails[bout], bout


def latent(
    is_tail: np.ndarray, bout: np.ndarray, auc: float, rng: np.random.Generator,
    icc: float = 0.4, models: int = 1, corr: float = 0.0,
) -> np.ndarray:
    "(models, n) float: scores of models of one AUC; `corr` is the correlation between models."
    n, n_bouts = len(bout), bout.max() + 1

    def noise(size: int) -> np.ndarray:
        shared = rng.standard_normal((1, size))
        return np.sqrt(corr) * shared + np.sqrt(1 - corr) * rng.standard_normal((models, size))

    effect = noise(n_bouts)[:, bout]
    shift = np.sqrt(2) * norm.ppf(auc)
    return shift * is_tail + np.sqrt(icc) * effect + np.sqrt(1 - icc) * noise(n)


def epochs(
    is_tail: np.ndarray, bout: np.ndarray, auc: float, rng: np.random.Generator, n_epochs: int,
    lag: float = 0.7, icc: float = 0.4, slope: float = 1.0, offset: float = -0.6, wander: float = 0.6,
) -> np.ndarray:
    """(n_epochs, n) float: P(tail) of a model of one AUC at every epoch of its training.

    The noise of bouts and of events, and the offset that decides how many events are called tail
    (standard deviation `wander`), follow an AR(1) process with lag-1 correlation `lag`.
    """
    def walk(size: int) -> np.ndarray:
        out = rng.standard_normal((n_epochs, size))
        for k in range(1, n_epochs):
            out[k] = lag * out[k - 1] + np.sqrt(1 - lag**2) * out[k]
        return out

    effect = walk(bout.max() + 1)[:, bout]
    score = np.sqrt(2) * norm.ppf(auc) * is_tail + np.sqrt(icc) * effect
    score = score + np.sqrt(1 - icc) * walk(len(bout))
    return expit(offset + wander * walk(1) + slope * score)


def study(
    structure: Structure, auc: float, rng: np.random.Generator,
    icc: float = 0.4, slope: float = 1.0, offset: float = -1.2,
) -> pd.DataFrame:
    "A table of predictions: clip_id, event_idx, true_label, pred_label, prob_ear, prob_tail, bout_id."
    is_tail, bout = labels(structure, rng)
    return as_table(is_tail, bout, expit(offset + slope * latent(is_tail, bout, auc, rng, icc)[0]))


def as_table(is_tail: np.ndarray, bout: np.ndarray, prob: np.ndarray) -> pd.DataFrame:
    "A table of predictions from arrays of one length."
    n = len(prob)
    return pd.DataFrame({
        "clip_id": [f"evt_{k:04d}" for k in range(n)], "event_idx": np.arange(n),
        "true_label": np.where(is_tail, "tail", "ear"),
        "pred_label": np.where(prob >= 0.5, "tail", "ear"),
        "prob_ear": 1 - prob, "prob_tail": prob, "bout_id": [f"b{k}" for k in bout],
    })


def at_most(rate: float, studies: int, sure: float = 0.999) -> int:
    "The largest count out of `studies` that a true rate of `rate` explains: a bound for a rejection count."
    return int(binom.ppf(sure, studies, rate))


def at_least(rate: float, studies: int, sure: float = 0.999) -> int:
    "The smallest count out of `studies` that a true rate of `rate` explains: a bound for a coverage count."
    return int(binom.ppf(1 - sure, studies, rate))


class AucOnly:
    "ROC AUC under weights of bouts from the matrix of wins between bouts: the CI of `intervals` for this one metric, quickly."
    def __init__(self, is_tail, prob, bout):
        win = (prob[is_tail][:, None] > prob[~is_tail]) + .5 * (prob[is_tail][:, None] == prob[~is_tail])
        n = bout.max() + 1
        tail, ear = (np.eye(n)[bout[rows]] for rows in (is_tail, ~is_tail))
        self.wins, self.tails, self.ears = tail.T @ win @ ear, tail.sum(0), ear.sum(0)
        self.value = self.of(np.ones((1, n)))[0]

    def of(self, w):
        with np.errstate(invalid="ignore"):
            return ((w @ self.wins) * w).sum(1) / ((w @ self.tails) * (w @ self.ears))

    def draws(self, n_boot, rng):
        n = len(self.tails)
        return self.of(rng.multinomial(n, np.full(n, 1 / n), n_boot).astype(float))

    def jack(self):
        return self.of(1 - np.eye(len(self.tails)))


GROUPS = {1: (116, 19), 2: (48, 2), 3: (72, 4), 6: (87, 13)}  # group: ear and tail events of the lab's validation
CAMERAS = {1: "8", 2: "16", 3: "12", 6: "12"}
HOURS = {6: 44, 7: 45, 8: 25, 9: 14, 10: 32, 11: 27, 12: 28, 13: 25, 14: 17, 15: 37, 16: 43, 17: 24}  # events
PLACES = {"middle": 196, "front": 112, "back": 53}  # events


def lab_cells(is_tail: np.ndarray, bout: np.ndarray, rng: np.random.Generator, alone: float = 130 / 176) -> pd.DataFrame:
    """group, day, camera_id, video_filename, start_s, pen_location of each event of a validation study.

    Groups are filled to the lab's numbers of ear and tail events, one camera a group; of 176 bouts 130 are
    alone in their video and the others share one in twos; hour and place in the pen are drawn a bout.
    """
    n = bout.max() + 1
    ears, tails = np.bincount(bout, ~is_tail), np.bincount(bout, is_tail)
    room, group = np.array(list(GROUPS.values()), float), np.zeros(n, int)
    for b in np.lexsort((rng.random(n), -np.maximum(tails * 100, ears))):  # the large ones first
        need = np.array([ears[b], tails[b]])
        score = (room - need).min(axis=1) * 100 + room @ (1, 1) if tails[b] else room[:, 0]
        group[b] = rng.choice(len(room), p=_share(room[:, 1])) if tails[b] and rng.random() < 0.5 else int(np.argmax(score))
        room[group[b]] -= need
    video = np.arange(n)
    for g in range(len(room)):
        own = rng.permutation(np.flatnonzero(group == g))
        shared = own[: int(round(len(own) * (1 - alone) / 2)) * 2]
        video[shared[1::2]] = video[shared[::2]]
    hour = rng.choice(list(HOURS), n, p=_share(HOURS.values()))
    place = rng.choice(list(PLACES), n, p=_share(PLACES.values()))
    names = np.array(list(GROUPS))[group]
    return pd.DataFrame({"group": names, "day": 1, "camera_id": np.array(list(CAMERAS.values()))[group],
                         "video_filename": [f"v{v}.mp4" for v in video], "start_s": hour * 3600.0 + 7.0 * np.arange(n) % 3000,
                         "pen_location": place}).iloc[bout].reset_index(drop=True)


def _share(values) -> np.ndarray:
    weight = np.maximum(np.fromiter(values, float), 1e-9)
    return weight / weight.sum()


def placed_study(auc: float, rng: np.random.Generator, shift=None, icc: float = 0.4) -> pd.DataFrame:
    "A validation study with its cells; `shift(cells, is_tail)` is added to the latent score."
    is_tail, bout = labels(VALIDATION, rng)
    cells = lab_cells(is_tail, bout, rng)
    score = latent(is_tail, bout, auc, rng, icc)[0]
    if shift is not None:
        score = score + shift(cells, is_tail)
    return pd.concat([as_table(is_tail, bout, expit(score - 1.2)), cells], axis=1)


def train_side(rng: np.random.Generator, n: int = 700) -> pd.DataFrame:
    "Training events in which the share of tails differs by group as in the lab, and by hour and place."
    group = rng.choice(list(GROUPS), n, p=_share(sum(v) for v in GROUPS.values()))
    hour, place = rng.choice(list(HOURS), n, p=_share(HOURS.values())), rng.choice(list(PLACES), n, p=_share(PLACES.values()))
    share = np.select([group == 1, group == 2, group == 3], [0.16, 0.06, 0.15], 0.10) * rng.choice([0.6, 1.4], 24)[hour]
    return pd.DataFrame({"group": group, "day": 1, "camera_id": [CAMERAS[g] for g in group], "start_s": hour * 3600.0, "pen_location": place,
                         "video_filename": [f"v{k}.mp4" for k in rng.integers(0, 400, n)],
                         "behavior": np.where(rng.random(n) < share, "tail", "ear")})


def planted(name: str, train: pd.DataFrame, sd: float = 0.25):
    "A shift of the score by `sd` for each standard deviation of the training share of tails of its cell."
    from crosssuck.confounds import PLACE, training_share

    def shift(cells, is_tail):
        x = pd.Series(training_share(train, cells, PLACE[name]))
        x = x - x.groupby(is_tail).transform("mean")
        return sd * x / x.std()
    return shift


def panel_of(table: pd.DataFrame, train: pd.DataFrame, rng: np.random.Generator, colour: float = 0.5, background: float = 0.5) -> pd.DataFrame:
    "The rows of the panel that can cast doubt; colour and background as scores of these ROC AUCs. Indexed by what."
    from crosssuck.confounds import COLUMNS, auc_row, error_rows, follow_rows, judge, repeat_row
    val, is_tail = table.assign(behavior=table.true_label), (table.true_label == "tail").to_numpy()
    bout = pd.factorize(table.bout_id)[0]
    rows = [*follow_rows(table, train, val, n_perm=499), *error_rows(table, n_perm=199), repeat_row(table, val)]
    rows += [auc_row(what, table, latent(is_tail, bout, auc, rng)[0], "", "", doubt=True, n_boot=40)
             for what, auc in (("colour", colour), ("background", background))]
    return judge(pd.DataFrame(rows, columns=COLUMNS)).set_index("what")
