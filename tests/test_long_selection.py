"The selected epoch: false alarms of the test that repeats the selection, of the one that ignores it, and power."
import pytest
import studies
from selecting import METRICS, rates

pytestmark = pytest.mark.long
STRUCTURES = {"validation": studies.VALIDATION, "ood": studies.OOD}
N = studies.LONG


def told(kind, found):
    print("\n", *kind, {k: round(float(v), 4) for k, v in found.items()}, flush=True)


@pytest.mark.parametrize("select_by", ["macro_f1", "roc_auc"])
@pytest.mark.parametrize("n_epochs", [18, 50])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_skill_is_called_skill_in_at_most_3_5_percent(structure, n_epochs, select_by):
    "One-sided, nominal 2.5 %; the test that ignores the selection shows that the studies are hard."
    found = rates(STRUCTURES[structure], n_epochs, select_by, n=N, n_perm=79)
    told((structure, n_epochs, select_by), found)
    assert max(found[m] for m in METRICS) <= 0.035
    assert found["naive"] >= {("macro_f1", 18): 0.06, ("macro_f1", 50): 0.09, ("roc_auc", 18): 0.14, ("roc_auc", 50): 0.36}[select_by, n_epochs]
    assert found["mean_macro_f1"] == pytest.approx(found["mean_macro_f1_chance"], abs=0.006)
    assert found["mean_roc_auc"] == pytest.approx(found["mean_roc_auc_chance"], abs=0.006)


@pytest.mark.parametrize("select_by", ["macro_f1", "roc_auc"])
def test_early_stopping_does_not_raise_the_false_alarms(select_by):
    "The number of epochs depends on the labels too; the lab stops after 15 epochs without a better one."
    found = rates(studies.VALIDATION, 50, select_by, n=N, n_perm=79, patience=15)
    told(("validation, patience 15", select_by), found)
    assert max(found[m] for m in METRICS) <= 0.035


@pytest.mark.parametrize("select_by", ["average_precision", "f1_tail"])
def test_the_other_selecting_metrics_keep_the_level(select_by):
    found = rates(studies.VALIDATION, 18, select_by, n=N, n_perm=79)
    told(("validation", 18, select_by), found)
    assert max(found[m] for m in METRICS) <= 0.035


@pytest.mark.parametrize("auc", [0.60, 0.75, 0.85])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_power(structure, auc):
    for select_by in ("macro_f1", "roc_auc"):
        found = rates(STRUCTURES[structure], 18, select_by, auc, n=300, n_perm=199)
        told((structure, "power", auc, select_by), found)
        if auc >= 0.75 and structure == "validation":
            assert found["roc_auc"] >= 0.9
