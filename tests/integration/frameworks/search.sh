#!/bin/sh
# Finds the ten nearest documents of a category, for each line "CATEGORY VECTOR" of standard input.
set -eu
while read -r category vector; do
    found=$(psql -X -q -A -t -R ' ' -v ON_ERROR_STOP=1 -v category="$category" -v vector="$vector" <<'SQL'
SELECT id FROM documents WHERE category = :'category' ORDER BY embedding <=> :'vector' LIMIT 10;
SQL
    )
    echo "$found"
done
