#!/bin/sh
# Ships the commit that is checked out: AIRSTRIP_HOST=airflow.example.com AIRSTRIP_KEY=FILE ./deploy.sh
# Fails if the server refuses it, and lists each problem with file and line.
set -eu
known=$(mktemp)
trap 'rm -f "$known"' EXIT
echo "$AIRSTRIP_HOST_KEY" | sed "s/^/$AIRSTRIP_HOST /" > "$known"
git archive --format=tar.gz HEAD $(git ls-tree --name-only HEAD dags etl plugins) |
  ssh -i "$AIRSTRIP_KEY" -o BatchMode=yes -o IdentitiesOnly=yes -o UserKnownHostsFile="$known" "airstrip-deploy@$AIRSTRIP_HOST"
