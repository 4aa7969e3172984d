"""The presets are those of docs/presets.md, complete and field by field."""

from pathlib import Path

import pytest

from ssdkd_jax import config, methods, presets, settings

TABLE = Path(__file__).parents[1] / "docs" / "presets.md"


def stated():
    """{(preset, field): value as text} of the page's table."""
    _, _, table = TABLE.read_text().partition("## The table")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {(preset, field): value for preset, field, value, source in rows[2:] if source}


def test_every_preset_says_what_the_page_says_and_nothing_else():
    found = {(name, field): str(value) for name, fields in presets.PRESETS.items() for field, value in fields.items()}
    assert found == stated()


SHARED = {"synthesis.batch", "synthesis.doublings", "views.flip", "views.shift", "views.colour", "synthesis.class_code"}


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if not name.startswith(("ssdkd", "real"))])
def test_a_preset_states_all_that_its_method_reads_of_the_shared_sections(name):
    chosen = presets.apply(config.default(), name)
    reader = settings.Reader(chosen)
    reader(methods.by_name(chosen.method.name).Settings)
    read = {field for field in reader.read_fields if field.startswith(("synthesis.", "views."))}
    assert read - SHARED <= presets.PRESETS[name].keys()


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_leaves_nothing_of_another_behind(name):
    touched = config.default()
    for other in presets.PRESETS:
        touched = presets.apply(touched, other)
    clean = presets.apply(config.default(), name)
    presets.apply(touched, name)
    reader = settings.Reader(clean)
    reader(methods.by_name(clean.method.name).Settings)
    fields = {field for field in reader.read_fields if not field.startswith("views.")}
    if not name.startswith(("ssdkd", "real")):
        assert {field: touched[field] for field in fields - SHARED} == {
            field: clean[field] for field in fields - SHARED
        }
