"""The simulation of a fleet agrees with arithmetic where one part sets the pace."""

import json
from dataclasses import replace

import pytest

from benchmarks import cluster
from recdqn.book.cluster import Costs, Setting, simulate
from recdqn.book.recorded import RESULTS

FREE = Costs(
    step=0.010,
    fixed=0.002,
    call=0.0,
    result=0.0,
    collection=0.0,
    frame=0.0,
    update=0.007,
    frame_bytes=0,
    state_bytes=0,
    weight_bytes=0,
)
COSTS = replace(FREE, call=0.003, result=0.001, collection=0.004, frame=2e-5)
BYTES = {"frame_bytes": 1_000, "state_bytes": 500, "weight_bytes": 150_000}


@pytest.mark.parametrize("updates", [2, 400])
def test_without_other_costs_it_is_the_formula_of_the_chapter(updates):
    """T (c + N s / A) or K u, whichever is longer: 4 steps of 16 environments with A actors."""
    for actors in (1, 2, 4, 16):
        found = simulate(FREE, Setting(actors, 16 // actors, 4, updates))
        cycle = max(4 * (0.002 + 16 / actors * 0.010), updates * 0.007)
        assert found.rate == pytest.approx(64 / cycle)
        assert found.updates == pytest.approx(updates / 64)


def test_a_fleet_that_waits_for_its_actors():
    """From one collection to the next: send at once, collect, read the results of all, one after another."""
    found = simulate(COSTS, Setting(8, 2, 4, updates=2))
    collect = 0.003 + 4 * (0.002 + 2 * 0.010)
    assert found.rate == pytest.approx(64 / (collect + 8 * 0.001))
    assert found.busy["actors"] == pytest.approx(collect / (collect + 0.008), rel=0.01)


def test_a_fleet_that_waits_for_its_learner_or_its_driver():
    """One process reads, joins, stores and learns; the actors are ready before."""
    for updates in (0, 50):
        found = simulate(COSTS, Setting(256, 4, 2, updates=updates, pipeline=2))
        frames = 256 * 4 * 2
        cycle = 256 * 0.001 + 0.004 + frames * 2e-5 + updates * 0.007
        assert found.rate == pytest.approx(frames / cycle)
        assert found.busy["learner"] == pytest.approx(updates * 0.007 / cycle, rel=0.02)


def test_a_fleet_that_waits_for_the_network():
    """A hundredth of a megabyte for each actor: 4 environments with 2 steps of 1,000 bytes and a state."""
    costs = replace(FREE, **BYTES)
    found = simulate(costs, Setting(64, 4, 2, bandwidth=1e5, pipeline=2))
    assert found.rate == pytest.approx(1e5 / (1_000 + 500 / 2))
    sent = simulate(costs, Setting(64, 1, 2_000, bandwidth=1e5, neighbours=1, stores=64))
    assert sent.rate == pytest.approx(2_000 * 1e5 / 150_000, rel=0.01)  # each actor takes the weights
    assert sent.busy["weights"] == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_weights_are_as_old_as_the_pipeline_is_long(pipeline):
    found = simulate(COSTS, Setting(4, 4, 4, updates=3, pipeline=pipeline))
    assert (found.age, found.collections) == pytest.approx((3 * pipeline, pipeline))


def test_a_fleet_waits_for_its_slowest_actor_and_a_pipeline_for_the_mean():
    """The largest of 64 normal values is 2.36 deviations above their mean; of a gamma's, a bit more."""
    even = Setting(64, 4, 16, spread=0.1, pipeline=1)
    collect = 16 * (0.002 + 4 * 0.010)
    for pipeline, times in ((1, 1.25), (8, 1.0)):
        found = simulate(FREE, replace(even, pipeline=pipeline), collections=100)
        assert found.rate == pytest.approx(even.frames / (times * collect), rel=0.03)


def test_with_stores_nobody_waits():
    """The learner updates all the time, and weights are as old as a collection takes."""
    found = simulate(COSTS, Setting(64, 4, 16, stores=4))
    cycle = 0.003 + 16 * (0.002 + 4 * 0.010)
    store = 0.001 + 0.004 + 64 * 2e-5
    assert found.rate == pytest.approx(64 * 64 / (cycle + store), rel=0.05)
    assert found.updates * found.rate == pytest.approx(1 / 0.007, rel=0.02)
    assert found.age == pytest.approx((cycle + store) / 0.007, rel=0.05)
    assert found.collections == pytest.approx(1, rel=0.02)


def test_stores_that_do_not_keep_up():
    found = simulate(COSTS, Setting(512, 4, 16, stores=2))
    assert found.rate == pytest.approx(2 * 64 / (0.001 + 0.004 + 64 * 2e-5), rel=0.01)
    assert found.busy["driver"] == pytest.approx(1, rel=0.01)
    assert found.age > 2 * (16 * 0.042) / 0.007  # they wait to be stored


def test_the_recorded_fleets_are_those_of_the_recorded_costs(monkeypatch):
    """Simulated again, those of 16 and 64 actors: nothing in a simulation depends on the machine."""
    recorded = json.loads((RESULTS / "cluster.json").read_text())
    costs = {name: Costs(**each) for name, each in recorded["costs"].items()}
    monkeypatch.setattr(cluster, "ACTORS", [16, 64])
    slow = cluster.sleeping(costs["masked-cartpole"], recorded["sleep"]["10"])
    for name, rows in cluster.large(slow).items():
        again = [row for row in recorded["large"][name] if row["actors"] in (16, 64)]
        for row, found in zip(again, rows, strict=True):
            assert found["rate"] == pytest.approx(row["rate"]) and found["age"] == pytest.approx(row["age"])
    assert [row["stores"] for row in recorded["r2d2"]] == [0, 1, 2, 3, 4, 8]
    for row in recorded["clock"]:
        cfg = cluster.slow_config(row["actors"], row["ms"], row["updates"])
        slow = cluster.sleeping(costs["masked-cartpole"], recorded["sleep"][str(row["ms"])])
        assert cluster.formula(cfg, slow) == pytest.approx(row["formula"])
        if row["actors"]:
            setting = Setting(row["actors"], 16 // row["actors"], 4, row["updates"])
            assert simulate(slow, setting).rate == pytest.approx(row["simulation"])


def test_fleets_saturate_where_the_chapter_says():
    recorded = json.loads((RESULTS / "cluster.json").read_text())
    fleets = recorded["large"]
    ends = {name: (rows[0]["busy"], rows[-1]["busy"]) for name, rows in fleets.items()}
    busy = {row["actors"]: row["busy"]["learner"] for row in fleets["80 replays"]}
    assert busy[16] < 0.9 < busy[32]
    for name in ("0.8 replays", "0.8 replays, pipeline 4", "16 stores"):
        assert ends[name][1]["driver"] > 0.7 > ends[name][1]["actors"]
    assert max(busy[part] for both in ends.values() for busy in both for part in ("results", "weights")) < 0.5
    single, ahead = fleets["0.8 replays"][0], fleets["0.8 replays, pipeline 4"][0]
    assert single["busy"]["actors"] < 0.85 and ahead["busy"]["actors"] > 0.95
    assert ahead["age"] == pytest.approx(4 * single["age"])
    ages = [row["age"] for row in fleets["16 stores"] if row["busy"]["actors"] > 0.95]
    assert len(ages) > 5 and max(ages) < 1.1 * min(ages)
    assert fleets["16 stores"][-1]["age"] > 2 * min(ages)

    for one, two in zip(recorded["r2d2"], recorded["r2d2"][1:], strict=False):
        if one["stores"] and one["busy"]["actors"] < 0.9:
            assert two["rate"] > 1.2 * one["rate"]
    alone, *_, last = recorded["r2d2"]
    assert alone["busy"]["actors"] < 0.5 and last["busy"]["actors"] > 0.95 and 64 * 80 * last["updates"] < 1


def test_five_settings_are_within_15_percent_of_the_formula():
    recorded = json.loads((RESULTS / "cluster.json").read_text())
    close = [row for row in recorded["clock"] if abs(row["clock"] / row["formula"] - 1) <= 0.15]
    assert len(close) >= 5


def test_four_actors_are_three_times_as_fast_where_a_step_takes_10_ms():
    recorded = json.loads((RESULTS / "cluster.json").read_text())
    rates = {
        row["actors"]: row["clock"] for row in recorded["clock"] if (row["ms"], row["updates"]) == (10, 2)
    }
    assert rates[4] >= 3 * rates[0]
