"""What the `[data]` table refuses before any data are read."""

from typing import Any

import pytest
from pydantic import ValidationError

from hpsearch.study.data import DataSpec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"split": {"group_by": "("}},
            r'"\(" is not a valid regular expression .*; correct it, or use "column:<name>"',
        ),
        ({"split": {"group_by": "column:"}}, r'"column:" names no column'),
        ({"progressive": [[0.0, 32], [0.5, 16]]}, r"must grow, got \[32, 16\]"),
        ({"progressive": [[0.0, 16], [0.5, 16]]}, r"must grow, got \[16, 16\]"),
        ({"resize": "stretch"}, "'crop', 'pad' or 'squash'"),
        (
            {"range": [4095, 0]},
            r"the first value must be the smaller one, got \[4095.*, 0.*\], such as \[0, 4095\]",
        ),
    ],
)
def test_what_no_data_could_heed_is_refused_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate({"dataset": "digits", **fields})
