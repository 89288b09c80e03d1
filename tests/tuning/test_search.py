"""The search: what it tries, gives up, keeps and goes on with. The runs are real ones on a small planted dataset."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import optuna
import pytest

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.tuning.pruning import BottomPruner, epoch_step, fold_step, in_bottom, value_at
from recbole_llm.tuning.search import search
from recbole_llm.tuning.space import Dimension, Space
from recbole_llm.tuning.study import JOURNAL, Plan, best, clean, draws, next_trial, open_study

#: A model that trains in a moment.
QUICK = {
    "split_by": "session_time", "epochs": 1, "valid_metric": "NDCG@20", "metrics": ["NDCG"], "topk": [20],
    "n_layers": 1, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 6, "show_progress": False, "state": "ERROR", "seed": 3,
    "hidden_size": 8, "metric_decimal_place": 6, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}  # fmt: skip
DIMENSIONS = (
    Dimension("learning_rate", low=1e-3, high=0.1, log=True),
    Dimension("n_heads", low=1, high=3),
)


def plan_of(folder, dimensions=DIMENSIONS, settings=QUICK, folds=(1, 2, 3), **more):
    space = Space("s", "", {}, dimensions)
    more.setdefault("trials", 40)  # a search that should have ended must not go on for ever
    return Plan(folder / "saved" / "study", "SASRec", "planted", space, settings, folds, "NDCG@20", True, **more)


class Fake:
    """Stands in for :func:`recbole_llm.run`: scores are given, no data is read. Only for what no score depends on."""

    def __init__(self, score, epochs=1):
        self.score, self.epochs, self.calls = score, epochs, []

    def __call__(self, model, dataset, files, settings, saved, test, on_epoch):
        assert not saved and not test
        self.calls.append(settings)
        scores = [self.score(settings, e) for e in range(self.epochs)]
        for e, s in enumerate(scores):
            on_epoch(e, s)
        self.result = {
            "best_valid_score": max(scores),
            "best_epoch": int(np.argmax(scores)),
            "epochs_trained": self.epochs,
        }
        return self


# -- giving up -----------------------------------------------------------------------------------------------------
def test_the_bottom_share_is_given_up_and_ties_stay():
    others = [float(i) for i in range(1, 11)]  # their .2 quantile is 2.8
    assert [in_bottom(v, others, 0.2) for v in (2.7, 2.8, 2.9, 11.0)] == [True, False, False, False]
    assert not in_bottom(1.0, [1.0] * 10, 0.2)


def test_a_report_is_compared_with_the_same_point_of_the_others():
    reports = {epoch_step(0, 0): 0.1, epoch_step(0, 1): 0.2, fold_step(0): 0.2, epoch_step(1, 0): 0.3}
    assert value_at(reports, epoch_step(0, 1)) == 0.2
    assert value_at(reports, epoch_step(0, 9)) == 0.2  # it stopped early
    assert value_at(reports, fold_step(0)) == 0.2 and value_at(reports, epoch_step(1, 0)) == 0.3
    assert value_at(reports, epoch_step(1, 1)) is None and value_at(reports, fold_step(1)) is None
    assert epoch_step(0, 10**9) < fold_step(0) < epoch_step(1, 0)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_pruner_on_constructed_scores(direction):
    """Running means per fold: [level, level - .1] of 10 trials, the last fold never judged against the first."""
    sign = 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction, pruner=BottomPruner(0.2, after=10))
    asked = []
    for level in range(10):
        trial = study.ask()
        trial.report(sign * level, fold_step(0))
        asked.append(trial.should_prune())
        trial.report(sign * (level - 0.1), fold_step(1))
        study.tell(trial, sign * (level - 0.1))
    assert not any(asked)  # nine others at most
    for value, given_up in ((1.7, True), (1.8, False), (5.0, False)):  # the .2 quantile of 0..9 is 1.8
        trial = study.ask()
        trial.report(sign * value, fold_step(0))
        assert trial.should_prune() is given_up
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # failed ones are not compared with
    trial = study.ask()
    trial.report(sign * 5.0, fold_step(0))
    trial.report(sign * 1.69, fold_step(1))  # below 1.7, the quantile there; its best report, 5, does not save it
    assert trial.should_prune()
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    trial = study.ask()
    trial.report(sign * 1.75, fold_step(0))
    assert trial.should_prune()
    trial = study.ask()
    trial.report(sign * 1.95, fold_step(0))  # eleven others: the given-up one's 5 counts, their quantile is 2
    assert trial.should_prune()


def test_what_is_given_up_is_recorded_and_saves_its_folds(tmp_path):
    fake = Fake(lambda s, e: s["learning_rate"] + 0.001 * s["fold"])
    plan = plan_of(tmp_path, DIMENSIONS[:1], trials=30, random_starts=30)
    search(plan, fake, print)
    found = draws(open_study(plan))
    states = [d.state for d in found]
    assert states[:10] == ["complete"] * 10 and {"pruned", "complete"} == set(states)
    assert len(fake.calls) == sum(len(d.record["scores"]) for d in found) < 90
    reference = []  # running means after fold 1 of what came before
    for d in found:
        mean = d.record["scores"][0]
        given_up = len(reference) >= 10 and mean < np.quantile(reference, 0.2)
        if given_up:
            assert d.state == "pruned" and len(d.record["scores"]) == 1 and d.score is None
        reference.append(mean)
    rows = json.loads((plan.folder / "trials.json").read_text())
    assert [r["state"] for r in rows["trials"]] == states and rows["best"] == best(found, True).number


def test_without_folds_epochs_are_judged(tmp_path):
    fake = Fake(lambda s, e: s["learning_rate"] * (e + 1), epochs=4)
    plan = plan_of(tmp_path, DIMENSIONS[:1], folds=(None,), prune="epoch", trials=25, random_starts=25)
    search(plan, fake, print)
    found = draws(open_study(plan))
    given_up = [d for d in found if d.state == "pruned"]
    assert given_up and all(len(d.trial.intermediate_values) < 4 for d in given_up)
    assert all("fold" not in c for c in fake.calls)


# -- limits --------------------------------------------------------------------------------------------------------
def test_it_stops_after_trials_without_gain(tmp_path):
    plan = plan_of(tmp_path, patience=7, random_starts=1000, prune="off", trials=None)
    scores = iter([0.1, 0.5, *[0.2] * 50])
    values = {}
    fake = Fake(
        lambda s, e: values.setdefault(s["learning_rate"], next(scores) if s["learning_rate"] not in values else 0)
    )
    assert search(plan, fake, print) == "7 trials brought no gain"
    assert len(draws(open_study(plan))) == 9 and best(draws(open_study(plan)), True).number == 1


def test_time_ends_it_in_the_middle_of_a_trial_and_more_time_goes_on(tmp_path):
    def slow(settings, epoch):
        time.sleep(0.05)
        return settings["learning_rate"]

    plan = plan_of(tmp_path, trials=4, prune="off")
    assert "time" in search(plan, Fake(slow), print, timeout=0.2)
    found = draws(open_study(plan))
    assert found[-1].state == "waiting"
    drawn = found[-1].trial.system_attrs["fixed_params"]
    assert search(plan, Fake(slow), print) == "4 trials are done"
    again = draws(open_study(plan))
    assert len(again) == 4 and drawn.items() <= again[found[-1].number].trial.params.items()


def test_a_failing_configuration_is_recorded_and_the_search_goes_on(planted):
    plan = plan_of(planted, (Dimension("n_heads", (1, 2, 3)), *DIMENSIONS[:1]), trials=6, folds=(1,))
    search(plan, recbole_llm.run, print)
    failed = [d for d in draws(open_study(plan)) if d.state == "failed"]
    assert failed and all(d.record["params"]["n_heads"] == 3 for d in failed)
    assert all("does not divide" in d.error and d.record["scores"] == [] for d in failed)
    assert not (plan.folder / "runs").exists() and not list((planted / "log").rglob("*.log"))
    assert not list((planted / "log_tensorboard").iterdir())


def test_where_all_first_ones_fail_alike_the_search_ends_with_their_error(planted):
    few = {**QUICK, "test_ratio": 0.99}  # one session is left for four bins
    plan = plan_of(planted, settings=few)
    with pytest.raises(UserError, match=r"first 5 trials all failed: 60 sessions are too few for a split by time") as e:
        search(plan, recbole_llm.run, print)
    assert "At least 4" in (e.value.hint or "")
    with pytest.raises(UserError, match="begun with other settings"):
        search(plan_of(planted), recbole_llm.run, print)
    # mended: nothing had succeeded, so nothing is kept of it
    fake = Fake(lambda s, e: 0.5)
    search(plan_of(planted, settings=few, trials=2), fake, print)
    assert [d.state for d in draws(open_study(plan))] == ["complete"] * 2


def test_a_fold_without_validation_sessions_says_so(home):
    """Nobody clicks what another one clicked, so no item of a later session was trained."""
    folder = home / "dataset_atomic" / "planted"
    folder.mkdir(parents=True)
    rows = [f"u{u}\ti{u}-{t}\t{u * 10 + t}" for u in range(20) for t in range(4)]
    (folder / "planted.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    with pytest.raises(UserError, match="all failed: The split 'session_time' of planted leaves no valid"):
        search(plan_of(home), recbole_llm.run, print)


def test_the_disks_fault_is_not_the_configurations(tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    plan = plan_of(tmp_path)
    with pytest.raises(OSError, match="No space"):
        search(plan, full, print)
    assert [d.state for d in draws(open_study(plan))] == ["waiting"]


# -- scores --------------------------------------------------------------------------------------------------------
def test_a_score_is_the_mean_of_three_separate_runs(planted):
    plan = plan_of(planted, trials=1, dimensions=DIMENSIONS[:1])
    search(plan, recbole_llm.run, print)
    (d,) = draws(open_study(plan))
    separate = [
        recbole_llm.run("SASRec", "planted", None, {**QUICK, **d.record["params"], "fold": f}).result[
            "best_valid_score"
        ]
        for f in (1, 2, 3)
    ]
    assert d.record["scores"] == separate and len(set(separate)) == 3
    assert d.score == pytest.approx(sum(separate) / 3, abs=1e-12)


def test_the_test_part_is_never_evaluated(planted):
    """Also where the split has one: the result of a trial's run holds no test metric."""
    seen = []

    def run(*args, **kwargs):
        done = recbole_llm.run(*args, **kwargs)
        seen.append((done.result["test"], done.manifest["data"]["test_rows"], done.manifest["split"]["sha256"].keys()))
        return done

    settings = {**QUICK, "split_by": "leave_one_out"}
    search(plan_of(planted, settings=settings, folds=(None,), trials=1, prune="epoch"), run, print)
    assert seen == [({"kept": {}, "masked": {}}, 0, {"valid"})]
    told = recbole_llm.run("SASRec", "planted", None, settings, saved=False)  # what the same run looks at by itself
    assert told.result["test"]["kept"] and told.manifest["data"]["test_rows"] == 60


# -- going on ------------------------------------------------------------------------------------------------------
def drawn_by(plan):
    return [(d.number, d.state, d.record["params"], d.record["scores"]) for d in draws(open_study(plan)) if d.ended]


def fake():
    return Fake(lambda s, e: -((np.log10(s["learning_rate"]) + 2) ** 2) - 0.1 * s["n_heads"] + 0.01 * s["fold"])


def test_equal_seeds_draw_alike_and_others_do_not(tmp_path):
    plans = [plan_of(tmp_path / n, trials=25, random_starts=8, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2))]
    for plan in plans:
        search(plan, fake(), print)
    a, b, c = map(drawn_by, plans)
    assert a == b and a != c
    scores = np.array([[scores[0] for _, _, _, scores in found] for found in (a, c)])
    assert scores[:, 8:].mean() > scores[:, :8].mean()  # it has learnt


def test_random_starts_look_at_no_score(tmp_path):
    found = []
    for name, sign in (("up", 1), ("down", -1)):
        plan = plan_of(tmp_path / name, trials=15, random_starts=12, prune="off")
        search(plan, Fake(lambda s, e, sign=sign: sign * s["learning_rate"]), print)
        found.append([params for _, _, params, _ in drawn_by(plan)])
    up, down = found
    assert up[:12] == down[:12] and up[12:] != down[12:]


def test_a_search_in_two_calls_is_the_search_in_one(tmp_path):
    whole, parts = (plan_of(tmp_path / n, trials=20, random_starts=5, seed=4) for n in ("whole", "parts"))
    search(whole, fake(), print)
    for trials in (3, 11, 20):
        search(plan_of(tmp_path / "parts", trials=trials, random_starts=5, seed=4), fake(), print)
    assert drawn_by(whole) == drawn_by(parts)
    said = []
    assert search(parts, fake(), said.append) == "20 trials are done"
    assert said == ["study: going on after 20 trials"]


def test_a_killed_trial_is_drawn_again_and_nothing_else_changes(tmp_path):
    """As a kill leaves it: a trial that runs, run folders, half a line of the journal."""
    whole, killed = (plan_of(tmp_path / n, trials=12, random_starts=5) for n in ("whole", "killed"))
    search(whole, fake(), print)

    class Kill(BaseException):
        pass

    def dying(calls):
        good = fake()

        def run(*args, **kwargs):
            if len(good.calls) == calls:
                raise Kill
            return good(*args, **kwargs)

        return run

    state = tmp_path / "state"
    for calls in (1, 10, 14):
        shutil.rmtree(state, ignore_errors=True)
        study_folder = killed.folder
        with pytest.raises(Kill):  # what the search does at its end is undone below, as a kill would have prevented it
            _without_cleaning(killed, dying(calls), state)
        shutil.rmtree(study_folder)
        shutil.copytree(state, study_folder)
        with open(study_folder / JOURNAL, "ab") as f:
            f.write(b'{"op_code": 4, "wor')
        (study_folder / "runs" / "left").mkdir(parents=True)
        running = [d for d in draws_of_copy(study_folder, tmp_path, killed) if d.state == "running"]
        assert len(running) == 1
    search(killed, fake(), print)
    assert drawn_by(whole) == drawn_by(killed)
    assert not (killed.folder / "runs").exists()


def _without_cleaning(plan, run, state):
    def copying(*args, **kwargs):
        try:
            return run(*args, **kwargs)
        except BaseException:
            shutil.copytree(plan.folder, state)
            raise

    search(plan, copying, print)


def draws_of_copy(folder, tmp_path, plan):
    copy = tmp_path / f"look-{time.monotonic_ns()}"
    shutil.copytree(folder, copy)
    path = copy / JOURNAL
    path.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    return draws(open_study(Plan(copy, *[getattr(plan, f) for f in list(plan.__dataclass_fields__)[1:]])))


def test_a_trial_that_kills_its_process_each_time_is_given_up(tmp_path):
    plan = plan_of(tmp_path, trials=3)
    for _ in range(3):
        study = open_study(plan)
        clean(study)
        trial = next_trial(study, plan)
        plan.space.draw(trial)
        assert trial.user_attrs["draw"] == 0
    search(plan, fake(), print)
    first, *others = draws(open_study(plan))
    assert first.state == "failed" and "ended 3 times" in first.error
    assert [d.state for d in others] == ["complete"] * 2


def test_two_searches_do_not_share_a_folder(tmp_path):
    plan = plan_of(tmp_path, trials=2)

    def other(*args, **kwargs):
        with pytest.raises(UserError, match="going on in another process"):
            search(plan, fake(), print)
        return good(*args, **kwargs)

    good = fake()
    search(plan, other, print)
