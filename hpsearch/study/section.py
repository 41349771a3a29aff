"""What every section of a study file shares."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from hpsearch.errors import nearest

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Section(BaseModel):
    """One table of a study file: frozen, unknown keys refused, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def parse_duration(value: Any) -> Any:
    """Turns "90s", "10m", "1.5h" or "2d" into seconds; numbers are seconds already.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
    if match is None:
        raise ValueError(
            f'"{value}" is not a duration; write a number and s, m, h or d, such as "90s" or "2h"'
        )
    return float(match[1]) * _UNITS[match[2]]


def parse_none(value: Any) -> Any:
    """Turns "none" into None."""
    return None if isinstance(value, str) and value == "none" else value


OrNone = BeforeValidator(parse_none)
"""For fields that may be None: TOML has no null, so that files and lists of choices write "none"."""


def is_own(name: str) -> bool:
    """Says whether a name means something of the user's own modules, as `my_package.parts:build` does."""
    return ":" in name


class OrOwn:
    """For texts that are one of these names, or `my_package.parts:build`, a function of the user's own."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"enum": [*self.names]}, {"type": "string", "pattern": ":"}]}

    def _checked(self, name: str) -> str:
        if name in self.names or is_own(name):
            return name
        raise ValueError(f'"{name}" is unknown; {nearest(name, self.names)}')


# Strict, since pydantic otherwise takes `true` for 1, "3" for 3 and "yes" for true.
Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, Field(strict=True)]
"""A number; whole ones are taken too."""
Bool = Annotated[bool, Field(strict=True)]

Seconds = Annotated[Float, BeforeValidator(parse_duration)]
"""A duration in seconds, written in TOML as a number or as "90s", "10m", "2h", "1d"."""
