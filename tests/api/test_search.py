"""The search as a whole, with methods that train nothing: fronts, records, refusals, resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from tfmpq.api.search import SearchResult, search
from tfmpq.errors import UsageError
from tfmpq.files import read_json
from tfmpq.policy.policy import load_policy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a model file."""
    import keras

    folder = tmp_path_factory.mktemp("search")
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        images = generator.integers(0, 256, (40, 8, 8, 3), np.uint8)
        np.savez(folder / f"data_{part}.npz", x=images, y=np.arange(40) % 4)
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = image
    for index, channels in enumerate((8, 16, 16, 8)):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv{index}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    keras.Model(image, layers.Dense(4, name="logits")(x)).save(folder / "net.keras")
    return folder


def found(place: Path, out: str, **options: Any) -> SearchResult:
    return search(str(place / "net.keras"), f"npz:{place / 'data_train.npz'}", out=place / out, **options)


def test_data_by_name_come_from_the_folder_that_the_result_records(place: Path) -> None:
    result = search(str(place / "net.keras"), "data", data_dir=place, method="uniform", out=place / "named")
    assert result.data_dir == read_json(place / "named" / "search.result.json")["data_dir"] == str(place)
    assert found(place, "unnamed", method="uniform").data_dir is None


def test_a_front_is_one_search_and_a_policy_for_each_budget(place: Path) -> None:
    result = found(
        place, "front", method="sensitivity", pareto=("0.7x", "0.35x", "0.5x"), budgets=("bops=0.9x",)
    )
    assert [row["asked"] for row in result.pareto] == ["size=0.35x", "size=0.5x", "size=0.7x"]
    sizes = [row["reached"] for row in result.pareto]
    assert sizes == sorted(sizes)
    for row in result.pareto:
        assert row["reached"] <= row["limit"]
        assert Path(row["policy"]).name == f"policy-{row['asked'].removeprefix('size=')}.yaml"
        policy = load_policy(row["policy"])
        assert [(b.key, b.asked) for b in policy.budget] == [("size", row["asked"]), ("bops", "bops=0.9x")]
        assert all(b.reached <= b.limit for b in policy.budget)
        assert policy.method == "sensitivity"
    # The run folder stands for the middle one.
    assert result.policy == load_policy(place / "front" / "policy-0.5x.yaml")
    assert read_json(place / "front" / "sensitivity.json")["weights"].keys() >= {"conv1", "logits"}
    assert result.gmpq["compression"] > 16
    assert (
        found(
            place, "front", method="sensitivity", pareto=("0.7x", "0.35x", "0.5x"), budgets=("bops=0.9x",)
        ).to_json()
        == result.to_json()
    )


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"method": "adam"}, "adam"),
        ({"method": "sgd", "alpha": 0.1}, "alpha=0.1"),
        ({"method": "uniform", "pareto": ("0.5x",), "budgets": ("size=0.4x",)}, "size=0.4x"),
        ({"method": "uniform", "pareto": ("0.5x", "0.01x")}, "size=0.01x"),
        ({"method": "uniform", "pareto": ("half",)}, "half"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(place: Path, options: Any, received: str) -> None:
    with pytest.raises(UsageError, match=rf"Received: .*{received}"):
        found(place, "refused", **options)
    assert not (place / "refused").exists()


def test_a_changed_knob_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        (place / "changed" / "search.npz").touch()  # as if a checkpoint had been written
        raise Stopped

    monkeypatch.setattr("tfmpq.methods.gradient.GradientMethod.run", stop)
    with pytest.raises(Stopped):
        found(place, "changed", method="asga", rho_max=0.1)
    assert read_json(place / "changed" / "search.json")["rho_max"] == 0.1
    for other in ({"rho_max": 0.2}, {}, {"rho_max": 0.1, "norm": "layer"}):
        with pytest.raises(UsageError, match=r"Received: (rho_max|norm)="):
            found(place, "changed", method="asga", **other)
    with pytest.raises(Stopped):
        found(place, "changed", method="asga", rho_max=0.1)


def test_a_run_that_was_begun_without_knobs_knows_nothing_of_them(place: Path) -> None:
    found(place, "plain", method="uniform")
    recorded = read_json(place / "plain" / "search.json")
    assert not {"norm", "adaptive", "select", "pareto", "prune_below"} & set(recorded)
    assert recorded["method"] == "uniform"
