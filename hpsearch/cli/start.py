"""The commands that come before a study: schema."""

import sys

from hpsearch.cli.options import command


@command()
def schema() -> None:
    """Print the study file's JSON schema, by which editors check it."""
    from hpsearch.study.schema import schema_text

    sys.stdout.write(schema_text())
