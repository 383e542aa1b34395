"""Simulated studies whose epoch is selected on the events that are scored, for tests of `selection_record`."""
import numpy as np
import studies
from crosssuck.metrics import AFTER_SELECTION, epoch_scores, permutation_test, selection_record

METRICS = list(AFTER_SELECTION)


def stopped(is_tail: np.ndarray, probs: np.ndarray, select_by: str, patience: int | None) -> np.ndarray:
    "The epochs up to the one at which early stopping ends the training."
    if patience is None:
        return probs
    score = epoch_scores(is_tail[None], probs, select_by)[0]
    for k in range(len(score)):
        if k - int(np.argmax(score[:k + 1])) >= patience:
            return probs[:k + 1]
    return probs


def rates(
    structure: studies.Structure, n_epochs: int, select_by: str, auc: float = 0.5, n: int = studies.LONG,
    n_perm: int = 199, patience: int | None = None, seed: int = 1,
) -> dict[str, float]:
    """Share of studies with p <= 0.025 for each metric; `naive`: by the ROC AUC of the selected epoch alone.

    Also the means over studies of the macro F1 and ROC AUC of the selected epoch, and of what
    `chance` says of them.
    """
    rng, calls, means = np.random.default_rng(seed), [], []
    for k in range(n):
        y, bout = studies.labels(structure, rng)
        probs = stopped(y, studies.epochs(y, bout, auc, rng, n_epochs), select_by, patience)
        record = selection_record(y, bout, probs, select_by=select_by, n_perm=n_perm, seed=k)
        naive = permutation_test(y, probs[record["selected_epoch"] - 1], bout, n_perm=n_perm, seed=k)["p_value"]
        calls.append([*(record["p_value"][m] <= 0.025 for m in METRICS), naive <= 0.025])
        means.append([v for m in ("macro_f1", "roc_auc") for v in (record["observed"][m], record["chance"][m]["mean"])])
    names = [*METRICS, "naive"], ["macro_f1", "macro_f1_chance", "roc_auc", "roc_auc_chance"]
    return {**dict(zip(names[0], np.mean(calls, 0), strict=True)), **{f"mean_{k}": v for k, v in zip(names[1], np.mean(means, 0), strict=True)}}
