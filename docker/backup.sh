#!/bin/sh
# docker compose run --rm backup: writes the database and the runs, as they are at this moment, into backups/DATE.
set -eu
[ -z "${PGPASSWORD_FILE:-}" ] || PGPASSWORD=$(cat "$PGPASSWORD_FILE")
export PGPASSWORD
into=${BACKUPS:-/backups}/$(date +%Y-%m-%dT%H%M%S)
mkdir -p "$into.part"
pg_dump --format custom --file "$into.part/database"
# Status 1: a file has changed while it was read, such as a checkpoint that was replaced by a newer one.
tar -C "${RUNS:-/runs}" -cf "$into.part/runs.tar" . || [ $? = 1 ]
(cd "$into.part" && sha256sum database runs.tar > sums)
mv "$into.part" "$into"
echo "$into"
