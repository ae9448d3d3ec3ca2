"""Whatever stands in the file of a study or of a space: a value, or a UserError of one sentence."""

import math

import pytest

from support.fuzz import examples
from wastetune.errors import UserError
from wastetune.search.space import SearchSpace, load_space
from wastetune.search.toml_file import shipped
from wastetune.training.config import TrialConfig
from wastetune.tuning.spec import StudySpec, load_study

hypothesis = pytest.importorskip("hypothesis", reason="needs pip install '.[dev]'")
from hypothesis import strategies as st  # noqa: E402

LOADERS = {"study": (load_study, StudySpec), "space": (load_space, SearchSpace)}
BASIS = {
    "study": {"dataset": "trashnet", "backbone": "resnet50"},
    "space": {"head_layers": 0, "dropout": 0.3, "learning_rate": 1e-3, "batch_size": 32, "epochs": 5},
}
KEYS = sorted({*StudySpec.model_fields, *TrialConfig.model_fields, "int", "float", "choice", "default", "log", "when"})
CONDITIONS = ["head_layers > 0", "head_layers == 1e400", "optimizer == 'adam'", "epochs != true", "a > [", "x == 1\ny"]


class Raw(str):
    """A date or a time, which TOML writes without quotes."""


text = st.one_of(st.text(max_size=8), st.sampled_from(["transfer", "adam", "auto", *CONDITIONS]))
number = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**400, -(10**400)]),
    st.floats(),
    st.floats(0, 1),
)
plain = st.one_of(number, st.booleans(), text, st.sampled_from(["1979-05-27T07:32:00Z", "07:32:00"]).map(Raw))
key = st.one_of(st.sampled_from(KEYS), st.text(max_size=5))
value = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(key, inner, max_size=4)),
    max_leaves=8,
)
ranges = st.fixed_dictionaries(
    {"default": plain},
    optional={
        "int": st.lists(number, max_size=3),
        "float": st.lists(number, max_size=3),
        "choice": st.lists(plain, max_size=3),
        "log": st.booleans(),
        "when": text,
    },
)


def quoted(text):
    return '"' + "".join(f"\\U{ord(sign):08x}" for sign in text if not 0xD800 <= ord(sign) < 0xE000) + '"'


def in_toml(value):
    match value:
        case Raw():
            return str(value)
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case float():
            return str(value) if math.isfinite(value) else str(value).replace("infinity", "inf")
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(in_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{quoted(key)} = {in_toml(each)}' for key, each in value.items())} }}"


def check(kind, content, tmp_path_factory):
    load, made = LOADERS[kind]
    file = tmp_path_factory.getbasetemp() / f"{kind}.toml"
    file.write_bytes(content)
    try:
        assert isinstance(load(str(file)), made)
        return True
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(file))
        assert "\n" not in sentence
        return False


@pytest.mark.parametrize("kind", LOADERS)
def test_any_value_under_any_key(kind, tmp_path_factory):
    @examples(60)
    @hypothesis.given(st.dictionaries(key, st.one_of(value, ranges), max_size=5), st.booleans())
    def load(table, complete):
        lines = [
            f"{quoted(key)} = {in_toml(each)}" for key, each in ((BASIS[kind] if complete else {}) | table).items()
        ]
        check(kind, "\n".join(lines).encode(), tmp_path_factory)

    load()


@pytest.mark.parametrize("kind", LOADERS)
def test_broken_syntax_and_odd_encodings(kind, tmp_path_factory):
    folder = shipped({"study": "studies", "space": "search_spaces"}[kind])
    whole = (folder / "demo.toml").read_bytes()

    @examples(60)
    @hypothesis.given(st.data())
    def load(data):
        content = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            begin = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(begin, min(begin + 40, len(content))))
            content[begin:end] = data.draw(
                st.one_of(
                    st.binary(max_size=6), st.sampled_from([b"[", b"{", b"=", b'"', b"\r", b"[[a]]", b"\xff\xfe"])
                )
            )
        encoding = data.draw(st.sampled_from([None, None, "utf-16", "utf-32", "utf-8-sig", "cp037"]))
        if encoding:
            content = content.decode("latin-1").encode(encoding)
        check(kind, bytes(content), tmp_path_factory)

    load()


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("epochs = " + "9" * 5000, id="5,000 digits"),
        pytest.param("epochs = 0x" + "f" * 20000, id="20,000 hexadecimal digits"),
        pytest.param("epochs = 1e400", id="an infinity that does not look like one"),
        pytest.param("epochs = " + "[" * 100_000, id="brackets without end"),
        pytest.param("epochs = { a = " * 20_000, id="tables without end"),
        pytest.param(".".join("a" * 5000) + " = 1", id="a key of 5,000 parts"),
        pytest.param('a = "' + "x" * 100_000 + '"', id="a long text"),
        pytest.param("x" * 100_000 + " = 1", id="a long key"),
        pytest.param('"a\\nb" = 1', id="a key of two lines"),
        pytest.param("\0", id="nothing but a zero"),
    ],
)
def test_huge_numbers_and_nests(kind, content, tmp_path_factory):
    known = "\n".join(f"{key} = {in_toml(each)}" for key, each in BASIS[kind].items() if key != "epochs")
    content = content.replace("epochs", "trials") if kind == "study" else content
    assert not check(kind, f"{known}\n{content}".encode(), tmp_path_factory)
