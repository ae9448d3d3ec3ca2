"""Class folders find the classes of a model: by name, by a table, or with a sentence that says how."""

import pytest

from wastetune.checks.class_names import match_classes, read_class_table
from wastetune.errors import UserError

MODEL = ("glass", "Food Organics", "metal")


def written(folder, text, encoding="utf-8"):
    (folder / "classes.csv").write_text(text, encoding=encoding)
    return folder / "classes.csv"


def test_names_are_the_same_apart_from_case_spaces_hyphens_and_underscores():
    found = match_classes(["glass", "Metal", "food_organics"], MODEL, {})
    assert found.model_class == {"glass": "glass", "Metal": "metal", "food_organics": "Food Organics"}
    assert found.alike == {"Metal": "metal", "food_organics": "Food Organics"}


def test_the_table_comes_first_and_may_join_classes_or_leave_them_out():
    table = {"Cans": "metal", "Foil": "metal", "glass": "Food Organics", "Wood": None, "Bricks": None}
    found = match_classes(["Cans", "Foil", "Metal", "Wood", "glass"], MODEL, table)
    assert found.model_class == {
        **{"Cans": "metal", "Foil": "metal", "Metal": "metal"},
        **{"Wood": None, "glass": "Food Organics"},
    }
    assert found.unused == ("Bricks",)


def test_a_name_that_fits_two_classes_fits_none():
    with pytest.raises(UserError, match="does not know 'GLASS'"):
        match_classes(["GLASS"], ("glass", "Glass"), {})
    assert match_classes(["Glass"], ("glass", "Glass"), {}).model_class == {"Glass": "Glass"}


def test_unknown_classes_are_listed_with_those_of_the_model_and_how_to_write_the_table():
    with pytest.raises(UserError) as error:
        match_classes(["Cans", "glass", "Wood"], MODEL, {})
    said = str(error.value)
    assert "'Cans', 'Wood'" in said
    assert "'glass', 'Food Organics', 'metal'" in said
    assert "folder_class,model_class" in said
    assert "--classes" in said
    assert "\n" not in said


def test_a_class_that_the_model_does_not_have_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'metall' is no class of the model; did you mean metal\?"):
        match_classes(["Cans"], MODEL, {"Cans": "metall"})


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("folder_class,model_class\nCans,metal\n Wood ,\n", "utf-8"),
        ("folder_class;model_class;note\r\nCans;metal;from the press\r\nWood;;\r\n", "utf-8-sig"),  # a spreadsheet's
        ("model_class, folder_class\nmetal, Cans\n,Wood\n", "utf-8"),
    ],
)
def test_a_table_is_read_as_people_write_it(tmp_path, text, encoding):
    assert read_class_table(written(tmp_path, text, encoding)) == {"Cans": "metal", "Wood": None}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Cans,metal\n", "must begin with the line folder_class,model_class"),
        ("", "must begin with the line folder_class,model_class"),
        ("folder_class,model_class\nCans,metal\nCans,glass\n", "names the class 'Cans' twice"),
        ("folder_class,model_class\n,metal\n", "line 2, has no folder_class"),
    ],
)
def test_a_table_that_says_nothing_certain_is_refused(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint):
        read_class_table(written(tmp_path, text))


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_class_table(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="it is not UTF-8"):
        read_class_table(written(tmp_path, "folder_class,model_class\nMüll,metal\n", "latin-1"))
