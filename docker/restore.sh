#!/bin/sh
# docker compose run --rm restore DATE: puts backups/DATE in place of the database and the runs.
set -eu
[ -z "${PGPASSWORD_FILE:-}" ] || PGPASSWORD=$(cat "$PGPASSWORD_FILE")
export PGPASSWORD
from=${BACKUPS:-/backups}/${1:-}
if [ -z "${1:-}" ] || [ ! -f "$from/database" ]; then
    echo "restore: \"${1:-}\" is not a backup; give one of: $(ls "${BACKUPS:-/backups}" | tr '\n' ' ')" >&2
    exit 2
fi
(cd "$from" && sha256sum --check --quiet sums) # before anything is taken away
dropdb --force --if-exists "$PGDATABASE"
createdb "$PGDATABASE"
pg_restore --dbname "$PGDATABASE" --exit-on-error "$from/database"
find "${RUNS:-/runs}" -mindepth 1 -delete
tar -C "${RUNS:-/runs}" -xf "$from/runs.tar"
