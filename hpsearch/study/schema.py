"""The study file as a JSON schema, from the sections themselves: editors complete and check fields by it.

What depends on two fields, on the data or on the machine is left to `hpsearch check`. It is draft 7, which the
editors' TOML plugins read.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from hpsearch.study.augment import PRESETS, TRANSFORMS, expand_preset
from hpsearch.study.conditions import WHEN
from hpsearch.study.search import SEARCHABLE, SHORT, searchable_kind
from hpsearch.study.section import Section, parse_duration, parse_none
from hpsearch.study.specification import StudySpec
from hpsearch.study.train import Stage, as_stage

Schema = dict[str, Any]

SHIPPED = Path(__file__).with_name("study.schema.json")
"""The schema that lies in the package, for the first line of a study file: `#:schema PATH`."""

_DURATION: Schema = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[smhd]\s*$"}]
}


def study_schema() -> Schema:
    """Returns the schema of a study file."""
    schema = StudySpec.model_json_schema(schema_generator=_Tables)
    _as_draft_7(schema)
    schema["properties"]["search"] = _search(schema["$defs"])
    del schema["$defs"]["Case"]  # how conditions are stored, not how they are written
    for name in ("FloatRange", "IntRange"):
        del schema["$defs"][name]["properties"]["cases"]
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "hpsearch study", **schema}


def schema_text() -> str:
    """Returns the schema as it is printed and shipped."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


class _Tables(GenerateJsonSchema):
    """Tables as TOML writes them: there is no null, "none" stands for it, and durations may have a unit."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> Schema:
        return self.generate_inner(schema["schema"])

    def function_before_schema(self, schema: Any) -> Schema:
        function = schema["function"]["function"]
        if function is parse_duration:
            return _DURATION
        inner = self.generate_inner(schema["schema"])
        named = {parse_none: ["none"], expand_preset: [*PRESETS], as_stage: ["head", "all"]}.get(function)
        return {"anyOf": [inner, {"enum": named}]} if named else inner

    def default_schema(self, schema: Any) -> Schema:
        inner = self.generate_inner(schema["schema"])
        default = schema.get("default")
        if default is None or default == () or isinstance(default, Section):
            return inner
        return {**inner, "default": self.encode_default(default)}

    def model_schema(self, schema: Any) -> Schema:
        found, cls = super().model_schema(schema), schema["cls"]
        target = self.resolve_ref_schema(found)
        target.pop("title", None)
        target["description"] = _paragraphs(inspect.getdoc(cls) or "")[0]
        for name, text in _said_of_fields(cls).items():
            if name in target.get("properties", {}):
                target["properties"][name]["description"] = text
        return found


def _said_of_fields(cls: type) -> dict[str, str]:
    """Returns what the source says of each field: below it, or under "Attributes:" in the class's docstring."""
    said: dict[str, str] = {}
    for base in reversed([one for one in cls.__mro__ if issubclass(one, Section) and one is not Section]):
        listed = (inspect.getdoc(base) or "").partition("Attributes:\n")[2]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
        said |= {name: _joined(text) for name, text in entries}
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as text)),
                ):
                    said[name] = _joined(text)
    return said


def _paragraphs(text: str) -> list[str]:
    return [_joined(one) for one in text.split("\n\n")]


def _joined(text: str) -> str:
    return " ".join(text.split())


def _as_draft_7(node: Any) -> None:
    """Writes the items of a pair as draft 7 has them, and leaves out what pydantic alone understands."""
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _as_draft_7(inner)
    if not isinstance(node, dict):
        return
    if "prefixItems" in node:
        node["items"] = node.pop("prefixItems")
    for bound in ("gt", "ge"):  # of a duration, which may be a text
        node.pop(bound, None)


def _search(tables: Mapping[str, Schema]) -> Schema:
    """Returns the schema of `[search]`: every searchable field by name, its choices as the field takes them."""
    fields = {name: _field(tables, name) for name in SEARCHABLE}
    for transform, section in TRANSFORMS.items():
        own = tables[section.__name__]["properties"]
        fields |= {f"data.augment.{transform}.{name}": own[name] for name in own if name != "name"}
    when = {
        "type": "object",
        "description": 'Fields that are sampled only where a condition holds, such as "train.optimizer = sgd".',
        "additionalProperties": {"$ref": "#/properties/search"},
    }
    return {
        "type": "object",
        "description": "Ranges and lists; any searchable field by its dotted name, in quotes.",
        "minProperties": 1,
        "properties": {
            **{name: _entry(searchable_kind(name), field) for name, field in fields.items()},
            WHEN: when,
        },
        "patternProperties": {
            r"^(model\.args|train\.args\.(optimizer|schedule)|function)\..+$": _entry("open", {})
        },
        "additionalProperties": False,
    }


def _field(tables: Mapping[str, Schema], name: str) -> Schema:
    table, field, *inner = SHORT.get(name, name).split(".")
    section: Any = StudySpec.model_fields[table].annotation
    found: Schema = tables[section.__name__]["properties"][field]
    return tables[Stage.__name__]["properties"][inner[-1]] if inner else found


_RANGES: Mapping[str, tuple[str, ...]] = {
    "float": ("FloatRange",),
    "int": ("IntRange",),
    "any": (),
    "open": ("FloatRange", "IntRange"),
}
"""Which ranges a kind of field takes beside a list of choices."""


def _entry(kind: str, field: Schema) -> Schema:
    value = {key: inner for key, inner in field.items() if key not in ("description", "default")}
    choices = {"type": "array", "minItems": 1, "uniqueItems": True, "items": value}
    table = {
        "type": "object",
        "properties": {"choices": choices},
        "required": ["choices"],
        "additionalProperties": False,
    }
    entry: Schema = {"anyOf": [choices, table, *({"$ref": f"#/$defs/{name}"} for name in _RANGES[kind])]}
    return entry | ({"description": field["description"]} if "description" in field else {})
