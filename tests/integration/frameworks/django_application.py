"""A program that searches by Django's ORM: `ENGINE NAME HOST PORT`, queries as JSON by standard input."""

from __future__ import annotations

import json
import sys

from tests.integration.framework_helpers import IN_FORCE, ROLE, K


def main(engine: str, name: str, host: str, port: str) -> None:
    """Print what was found and what is in force afterwards, as JSON."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {"ENGINE": engine, "NAME": name, "USER": ROLE, "HOST": host, "PORT": port}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django.db import connection, models
    from pgvector.django import CosineDistance, VectorField

    class Document(models.Model):  # type: ignore[misc]
        category = models.TextField()
        embedding = VectorField()

        class Meta:
            app_label = "shop"
            db_table = "documents"

    found = [
        [
            str(each.pk)
            for each in Document.objects.filter(category=category).order_by(
                CosineDistance("embedding", vector)
            )[:K]
        ]
        for vector, category in json.load(sys.stdin)
    ]
    with connection.cursor() as cursor:
        cursor.execute(IN_FORCE)
        in_force = cursor.fetchone()
    counters = connection.vectuned.counters if hasattr(connection, "vectuned") else None
    document = {
        "found": found,
        "in_force": in_force,
        "tuned": counters.tuned if counters else 0,
        "failures": counters.failures if counters else {},
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main(*sys.argv[1:])
