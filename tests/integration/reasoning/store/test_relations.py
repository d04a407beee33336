"""Relationships, hierarchies and paths along relationships, compared with the corpus they come from."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from tests.integration.table_helpers import counted, one

from vectuned.config.errors import UsageError
from vectuned.reasoning.store.entities import ConnectionPath
from vectuned.reasoning.store.statements import EntityNotFoundError
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.wordnet.corpus import Corpus
from vectuned.reasoning.wordnet.loading import HIERARCHY

Edges = dict[int, list[tuple[str, int]]]


@pytest.fixture(scope="module")
def edges(shared: EntityStore, synsets: Corpus) -> Edges:
    """The relationships of each entity: (type, entity)."""
    ids = shared.find_ids([synset.id for synset in synsets.synsets])
    found: Edges = defaultdict(list)
    relations = synsets.relations
    for source, target, kind in zip(relations.sources, relations.targets, relations.kinds, strict=True):
        found[ids[synsets.synsets[source].id]].append(
            (relations.names[kind], ids[synsets.synsets[target].id])
        )
    return found


def parents(edges: Edges, entity: int) -> set[int]:
    return {target for name, target in edges[entity] if name in HIERARCHY}


def above(edges: Edges, entity: int) -> dict[int, int]:
    """All ancestors and the smallest number of steps to each."""
    found, level, steps = {entity: 0}, {entity}, 0
    while level:
        steps += 1
        level = {up for at in level for up in parents(edges, at)} - found.keys()
        found.update(dict.fromkeys(level, steps))
    del found[entity]
    return found


def ways(edges: Edges, start: int, end: int, hops: int) -> set[tuple[tuple[int, ...], tuple[str, ...]]]:
    """All simple paths, by brute force."""
    found = set()
    waiting: list[tuple[tuple[int, ...], tuple[str, ...]]] = [((start,), ())]
    while waiting:
        nodes, names = waiting.pop()
        if nodes[-1] == end:
            found.add((nodes, names))
        elif len(names) < hops:
            waiting += [((*nodes, to), (*names, name)) for name, to in edges[nodes[-1]] if to not in nodes]
    return found


def test_load_stores_the_whole_corpus(shared: EntityStore, synsets: Corpus, edges: Edges) -> None:
    (counts,) = shared.rows("counts")
    assert (counts.active, counts.relationships) == (len(synsets.synsets), len(synsets.relations))
    for synset in synsets.synsets[::200]:
        entity = shared.get_entities([shared.find_ids([synset.id])[synset.id]])[0]
        assert f"{entity.name}: {entity.description}" == synset.text
        values = shared.get_attributes([entity.id])[entity.id]
        assert sorted(values["lemma"]) == sorted(set(synset.lemmas))
        assert values["lexical_category"] == [synset.category]
        assert values["gloss"] == [synset.gloss]
        found = shared.get_relationships(entity.id, max_results=1000)
        assert sorted((r.type, r.entity_id) for r in found) == sorted(edges[entity.id])


def test_get_relationships_filters_by_direction_and_type(shared: EntityStore, edges: Edges) -> None:
    child = next(e for e in edges if len(parents(edges, e)) > 1)
    parent = min(parents(edges, child))
    up = shared.get_relationships(child, ["hypernym", "instance_hypernym"])
    assert {r.entity_id for r in up} == parents(edges, child)
    incoming = shared.get_relationships(parent, ["hypernym"], direction="in")
    assert child in {r.entity_id for r in incoming}
    assert {r.direction for r in incoming} == {"in"}
    both = shared.get_relationships(parent, direction="both", max_results=3)
    assert len(both) == 3


def test_find_ancestors_follows_every_parent(shared: EntityStore, edges: Edges) -> None:
    several = [e for e in edges if len(parents(edges, e)) > 1]
    assert len(several) > 20
    for entity in [*several[:20], *list(edges)[:20]]:
        found = {r.id: r.distance for r in shared.find_ancestors(entity)}
        assert found == above(edges, entity), entity
        ends = {path.rpartition(".")[2] for path in shared.get_paths(entity)}
        assert len(ends) <= 1
        assert len(shared.get_paths(entity)) >= len(parents(edges, entity))


def test_find_descendants_and_siblings_match_the_corpus(shared: EntityStore, edges: Edges) -> None:
    below: dict[int, set[int]] = defaultdict(set)
    for entity in list(edges):
        for parent in parents(edges, entity):
            below[parent].add(entity)
    root = shared.find_ids(["n00001740"])["n00001740"]
    all_below = {e for e in list(edges) if root in above(edges, e)}
    assert {r.id for r in shared.find_descendants(root, 10_000)} == all_below
    assert {r.id for r in shared.find_descendants(root, max_depth=1)} == below[root]
    for entity in sorted(below[root]):
        wanted = {s for parent in parents(edges, entity) for s in below[parent]} - {entity}
        assert {r.id for r in shared.find_siblings(entity)} == wanted
    # The siblings of a root are the other roots: those of the verbs.
    roots = {e for e in below if not parents(edges, e)}
    assert {r.id for r in shared.find_siblings(root, 1000)} == roots - {root}
    one_down = {named.id for named, _ in shared.find_by_path("n00001740.*{1}")}
    assert one_down == below[root]


def test_find_relationships_searches_by_path(shared: EntityStore) -> None:
    inside = shared.find_relationships("n00001740.n00001930", 10_000)
    assert inside
    assert {edge.type for edge in inside} <= set(HIERARCHY)
    assert all(edge.path.startswith("n00001740.n00001930") for edge in inside)
    path = max((edge.path for edge in inside), key=lambda p: p.count("."))
    rows = shared.conn.execute(
        "SELECT path::text FROM vectuned_entities.find_relationship_ancestors(%s)", (path,)
    ).fetchall()
    chain = list(itertools.accumulate(path.split("."), lambda a, b: f"{a}.{b}"))
    # A root is the source of no relationship.
    assert [row[0] for row in rows] == chain[1:]
    beside = shared.conn.execute(
        "SELECT path::text FROM vectuned_entities.find_relationship_siblings(%s)", (path,)
    ).fetchall()
    assert path not in {row[0] for row in beside}
    assert all(row[0].rpartition(".")[0] == path.rpartition(".")[0] for row in beside)


def test_connection_paths_are_all_simple_paths(shared: EntityStore, edges: Edges) -> None:
    compared = 0
    for start in list(edges)[::97]:
        near = {to for _, a in edges[start] for _, b in edges[a] for _, to in edges[b]} - {start}
        for end in sorted(near)[:3]:
            found = shared.find_connection_paths(start, end, max_hops=3, max_results=1000)
            assert {(c.entity_ids, c.types) for c in found} == ways(edges, start, end, 3)
            assert len(found) == len({(c.entity_ids, c.types) for c in found})
            assert [len(c.types) for c in found] == sorted(len(c.types) for c in found)
            compared += len(found)
    assert compared > 50
    start = next(iter(edges))
    assert shared.find_connection_paths(start, list(edges)[-1], max_hops=1) == []


def test_connection_paths_are_ordered_by_product_of_confidences(store: EntityStore) -> None:
    a, b, c, d = (store.insert_entity(name) for name in "abcd")
    for source, target, confidence in (
        (a, b, 0.9),
        (b, d, 0.9),
        (a, c, 1),
        (c, d, 0.5),
        (a, d, 0.4),
        (d, a, 1),
    ):
        store.insert_relationship(source, target, "leads to", confidence)
    found = store.find_connection_paths(a, d)
    assert [(c.names, round(c.confidence, 6)) for c in found] == [
        (("a", "b", "d"), 0.81),
        (("a", "c", "d"), 0.5),
        (("a", "d"), 0.4),
    ]
    assert [c.names for c in store.find_connection_paths(a, d, min_confidence=0.45)] == [
        ("a", "b", "d"),
        ("a", "c", "d"),
    ]
    assert store.find_connection_paths(a, d, types=["hypernym"]) == []
    # A changed confidence or an archived entity takes effect at once.
    store.insert_relationship(a, d, "leads to", 1)
    assert store.find_connection_paths(a, d, max_results=1) == [
        ConnectionPath((a, d), ("a", "d"), ("leads to",), 1.0)
    ]
    store.archive(b)
    assert ("a", "b", "d") not in [c.names for c in store.find_connection_paths(a, d)]
    with pytest.raises(UsageError, match=r"confidence must be between 0 and 1, got 1\.1"):
        store.insert_relationship(a, b, "leads to", 1.1)
    with pytest.raises(EntityNotFoundError, match="there is no entity 999999999"):
        store.insert_relationship(a, 999999999, "leads to")


def test_connection_paths_through_hubs_are_bounded(store: EntityStore) -> None:
    hub = store.insert_entity("hub")
    spokes = [store.insert_entity(f"spoke {n}") for n in range(200)]
    for spoke in spokes:
        store.insert_relationship(hub, spoke, "spoke")
        store.insert_relationship(spoke, hub, "spoke")
    said: list[str | None] = []
    store.conn.add_notice_handler(lambda notice: said.append(notice.message_primary))
    with counted(store.conn, "vectuned_entities.relationships") as seen:
        rows = store.conn.execute(
            "SELECT hops FROM vectuned_entities.find_entity_connection_paths(%s, %s, 6, max_width => 50)",
            (spokes[0], spokes[1]),
        ).fetchall()
    assert rows == [(2,)]
    assert seen["blocks"] < 10_000
    assert said == ["a step had more paths than the 50 that were followed"]


def test_relationship_patterns_of_any_length(shared: EntityStore, edges: Edges) -> None:
    start = next(e for e in edges if len(above(edges, e)) > 3 and parents(edges, e))
    for types in (("hypernym",), ("hypernym", "hyponym"), ("hypernym", "hypernym", "hyponym", "hyponym")):
        wanted: set[tuple[int, ...]] = {(start,)}
        for name in types:
            wanted = {
                (*way, to) for way in wanted for kind, to in edges[way[-1]] if kind == name and to not in way
            }
        found = shared.find_relationship_patterns(types, start, 10_000)
        assert {match.entity_ids for match in found} == wanted
        assert {match.confidence for match in found} <= {1.0}
    anywhere = shared.find_relationship_patterns(["meronym_part", "hypernym"], max_results=5)
    for match in anywhere:
        first, middle, last = match.entity_ids
        assert ("meronym_part", middle) in edges[first]
        assert ("hypernym", last) in edges[middle]


def test_rebuild_paths_handles_cycles_and_many_parents(store: EntityStore) -> None:
    ids = [store.insert_entity(f"c{n}") for n in range(4)]
    for source, target in itertools.pairwise([*ids, ids[0]]):
        store.insert_relationship(source, target, "under")
    assert store.rebuild_paths(["under"], "cycle") == 4
    assert {r.id for r in store.find_ancestors(ids[1], hierarchy="cycle")} <= set(ids)
    assert len(store.get_paths(ids[0], "cycle")) == 1
    # A lattice: 2^10 paths to its end.
    layers = [[store.insert_entity(f"l{i}{j}") for j in range(2)] for i in range(11)]
    for upper, lower in itertools.pairwise(layers):
        for child, parent in itertools.product(lower, upper):
            store.insert_relationship(child, parent, "below")
    store.rebuild_paths(["below"], "lattice")
    assert len(store.get_paths(layers[-1][0], "lattice")) == 16
    assert one(store.conn, "SELECT max(path_no) FROM vectuned_entities.entity_paths") == 16


def test_shared_attributes_ignore_common_values(shared: EntityStore, synsets: Corpus) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for synset in synsets.synsets:
        for lemma in synset.lemmas:
            owners[lemma].append(synset.id)
    lemma, labels = next((lemma, labels) for lemma, labels in owners.items() if len(set(labels)) == 2)
    one_, other = shared.find_ids(labels).values()
    found = {
        sharer.id: sharer for sharer in shared.find_sharing_attributes(one_, ["lemma", "part_of_speech"])
    }
    assert f"lemma = {lemma}" in found[other].shared_values
    everywhere = [
        v for sharer in found.values() for v in sharer.shared_values if v == "part_of_speech = noun"
    ]
    assert not everywhere
    assert {e.id for e in shared.find_by_attribute("lemma", lemma)} == {one_, other}
