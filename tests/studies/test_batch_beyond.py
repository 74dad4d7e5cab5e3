"""What batch policy selection reports beyond the paper: digits, certificates, real logs; none of it is judged."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from gleanings import studies
from gleanings.core.errors import DataError
from gleanings.core.report import Report
from gleanings.core.study import StudyConfig
from gleanings.studies import _batch_beyond, _batch_clicks
from gleanings.studies._batch_trials import BEST, RULES, VALUED, measured, pair_measured, trials

from .test_selection_studies import made_up_batch

BATCH = studies.load("batch-policy-selection")


def page(found, tmp_path: Path) -> str:
    report = Report("title")
    BATCH.render(found, BATCH.decide(found), report)
    return report.save(tmp_path / "report.html").read_text()


def write_logs(folder: Path, rows: int = 150) -> None:
    """Logs like the real ones: five arms, hashed features, a click or two in each hundred, at random."""
    rng = np.random.default_rng(0)
    for logger, campaign in _batch_clicks.LOGS:
        path = folder / logger / campaign / f"{campaign}.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["", "item_id", "position", "click", "propensity_score"] + [f"user_feature_{i}" for i in range(4)]
            )
            for i in range(rows):
                features = [f"{value:x}" for value in rng.integers(10, 13, 4)]
                writer.writerow([i, i % 5, 1 + i % 3, int(i % 70 == 0), 0.2, *features])


def test_the_worst_regret_leaves_e_out_and_is_compared(tmp_path):
    found = made_up_batch({"e-n1000": {"auto": 0.9}, "c-n400": {"slope": 0.7}})
    worst = _batch_beyond.worst(found.values)
    assert worst["slope"] == (pytest.approx(0.7, abs=0.01), "c-n400")
    assert worst["auto"][0] == pytest.approx(0.2, abs=0.01)
    assert "not reached" in page(found, tmp_path).split("Aim: a worst mean regret")[1].split("</p>")[0]
    low = {cell: {"auto": 0.01} for cell in found.values["cells"]}
    better = page(made_up_batch(low), tmp_path).split("Aim: a worst mean regret")[1].split("</p>")[0]
    assert "P3" in better
    assert better.endswith(": reached.")


def test_certificates_are_added_up(tmp_path):
    found = made_up_batch()
    assert _batch_beyond.totals(found.values)["auto"] == {"trials": 140, "certified": 70, "wrong": 7}
    assert page(found, tmp_path).count("10.0% (5.0% of all choices): not reached") == 3
    for count in found.values["certificates"].values():
        count[VALUED] = {"trials": 20, "certified": 0, "wrong": 0}
    assert "0 of 140 choices certified, 0 of them wrong, 0.0% (0.0% of all choices): reached" in page(found, tmp_path)


def test_certificates_are_counted_against_the_best_class():
    found = measured("a-uniform", 60, range(1000, 1004))
    counts, regret = found["certificates"], {name: np.array(r) for name, r in found["regret"].items()}
    assert counts["hold-out"]["certified"] == counts["hold-out"]["trials"] == 4
    assert counts["hold-out"]["wrong"] == (regret["hold-out"] > regret[BEST] + 0.05).sum() > 0
    assert counts["ccs"]["certified"] == 0
    assert found["regret"] == trials("a-uniform", 60, range(1000, 1004))
    # Arms that were never logged: nothing is certified.
    assert measured("c", 100, range(1000, 1004))["certificates"]["hold-out"]["certified"] == 0
    pair = pair_measured(60, range(1000, 1002))["certificates"]
    assert pair["hold-out"] == {"trials": 4, "certified": 0, "wrong": 0}
    assert set(pair) == {*RULES, VALUED}


def test_real_logs_are_read_judged_and_reported(tmp_path):
    write_logs(tmp_path / "logs")
    log = _batch_clicks.read_clicks(tmp_path / "logs", "bts", "men")
    assert log.context.shape == (150, 3 + 4 * 3)
    assert set(np.unique(log.context)) == {0, 1}
    assert (log.num_actions, log.reward.sum()) == (5, 3)
    config = StudyConfig("smoke", tmp_path / "logs", 0, tmp_path / "run")
    values = BATCH.run(config)
    assert list(values["clicks"]) == ["bts-women"]
    found = values["clicks"]["bts-women"]
    assert (found["ess"], found["max_weight"]) == (pytest.approx(150), pytest.approx(1))
    holds = {what: ok for _, what, _, ok in _batch_clicks.requirements(values["clicks"])}
    assert [ok for what, ok in holds.items() if what.startswith("uniform")] == [False, False]
    made_up = made_up_batch()
    made_up.values.update({"clicks": values["clicks"], "absent": values["absent"]})
    text = page(made_up, tmp_path)
    assert "bts-women: uniform policy: effective rows 2.1 within 1%; measured 150" in text
    assert BATCH.decide(made_up).label == "reproduced"


def test_requirements_are_met_by_what_they_name():
    log = {"choice": "constant", "ess": 339.0, "max_weight": 278.0, "verdicts": {"Auto": "certified"}}
    women = log | {"ess": 2.1, "max_weight": 21700.0}
    rows = _batch_clicks.requirements({"bts-all": log, "bts-women": women})
    assert [ok for *_, ok in rows] == [True, True, True, True, True, True, False]
    rows = _batch_clicks.requirements({"bts-all": log | {"choice": "linear[3]", "ess": 336.0}})
    assert [ok for *_, ok in rows] == [False, False, True]


def test_absent_data_are_named_and_damaged_data_are_errors(tmp_path):
    assert "gleanings fetch obd-sample" in str(_batch_clicks.why_absent(None))
    assert "images.npz holds none of random/all" in str(_batch_clicks.why_absent(tmp_path / "images.npz"))
    write_logs(tmp_path)
    assert _batch_clicks.why_absent(tmp_path) is None
    (tmp_path / "bts" / "women" / "women.csv").unlink()
    with pytest.raises(DataError, match=r"women\.csv: no such file"):
        BATCH.run(StudyConfig("smoke", tmp_path, 0, tmp_path / "run"))


def test_without_scikit_learn_p3_is_not_attempted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    values = BATCH.run(StudyConfig("smoke", None, 0, tmp_path))
    assert not any(cell.startswith("p3") for cell in values["cells"])
    made_up = made_up_batch()
    del made_up.values["cells"]["p3-n500"]
    made_up.values["absent"] = values["absent"]
    text = page(made_up, tmp_path)
    assert "P3 was not attempted: digits need scikit-learn" in text
    assert "over a, b and c below" in text
    assert "Not attempted: no" in text
