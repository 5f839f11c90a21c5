from __future__ import annotations

from pathlib import Path

import pytest

from torchrec_gr.data.datasets import DATASETS, load_dataset

PUBLISHED = {
    "kuairand-pure": ("kuairand.com", "log_standard_4_08_to_4_21_pure.csv"),
    "movielens": ("GroupLens", "ratings.dat"),
    "criteo": ("Criteo AI Lab", "train.txt"),
    "amazon-beauty": ("McAuley", "reviews_Beauty_5.json.gz"),
    "amazon-sports": ("McAuley", "reviews_Sports_and_Outdoors_5.json.gz"),
}


def test_every_data_set_of_files_is_covered() -> None:
    assert {*PUBLISHED, "synthetic", "custom"} == set(DATASETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_files_say_where_to_get_them_and_what_they_hold(name: str, tmp_path: Path) -> None:
    publisher, file = PUBLISHED[name]
    with pytest.raises(ValueError, match=publisher) as error:
        load_dataset(name, tmp_path, tmp_path / "work")
    assert file in str(error.value)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(ValueError, match="is not a folder"):
        load_dataset(name, tmp_path / "nowhere", tmp_path / "work")


def test_a_wrong_name_meets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'kuairand-pure'"):
        load_dataset("kuairand", Path(), Path())


def test_a_wrong_option_meets_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'num_users'"):
        load_dataset("synthetic", None, Path(), num_user=3)


def test_files_need_a_folder() -> None:
    with pytest.raises(ValueError, match="'criteo' is read from files"):
        load_dataset("criteo", None, Path())


def test_a_wrong_label_meets_the_nearest(tmp_path: Path) -> None:
    sizes = {"num_users": 50, "num_items": 40, "num_impressions": 1_000, "num_organic": 100}
    with pytest.raises(ValueError, match="did you mean 'click'"):
        load_dataset("synthetic", None, tmp_path, label="clicks", **sizes)
    with pytest.raises(ValueError, match="did you mean 'long_view'"):
        load_dataset("kuairand-pure", tmp_path, tmp_path, label="longview")


def test_the_label_asked_for_leads(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,time,item,liked,bought\n1,1,2,0,1\n")
    (tmp_path / "schema.yaml").write_text(
        "name: shop\nlabels: [liked, bought]\n"
        "features: [{name: item, role: candidate}]\ntables: [{name: item}]\n"
        "user: user\ntime: time\n"
    )
    source = load_dataset(
        "custom",
        tmp_path,
        tmp_path / "work",
        label="bought",
        schema=tmp_path / "schema.yaml",
        test_from=5,
    )
    assert source.schema.labels == ("bought", "liked")
