"""Configs that lie in the folder of a run, whoever wrote them."""

import json

import pytest
import stored


def test_a_stored_config_is_the_default_with_its_fields(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7, "student": {"lr": 0.5}}))
    found = stored.get_config(str(tmp_path / "config.json"))
    assert (found.seed, found.student.lr, found.student.batch) == (7, 0.5, 128)


@pytest.mark.parametrize(
    "content",
    ["", "{oops", "[1, 2]", "3", '{"student": 3}', '{"student": {"lr": "fast"}}', '{"x": 1}', "[" * 10**5],
)
def test_other_content_is_one_sentence(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"'{path}' holds no config of a run") as error:
        stored.get_config(str(path))
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("of its folder.")


def test_a_near_miss_names_the_field(tmp_path):
    (tmp_path / "config.json").write_text('{"student": {"temprature": 4}}')
    with pytest.raises(ValueError, match='Did you mean "temperature'):
        stored.get_config(str(tmp_path / "config.json"))


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        stored.get_config(str(tmp_path / "config.json"))
