"""Edits of notebooks: operations of ``rtd_doc_edit``.

Storey: testing.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtimed_ffi.testing._hypothesis import strategies as st
from runtimed_ffi.testing.strategies.text import text
from runtimed_ffi.testing.wire import Json

MODEL_IDS = ("a", "b", "é😀", "")
"""Few ids, so that operations meet the same cells and cells that are not there; ids are any text."""

_SMALL = st.integers(0, 5)
_TYPES = st.one_of(st.sampled_from(["code", "markdown", "raw"]), text(2))
_OUTPUTS = st.lists(text(3), max_size=3)


def operation(ids: Sequence[str] = MODEL_IDS, new_ids: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Json]:
    """One operation, possible or not.

    Args:
        ids: of the cells it may be about.
        new_ids: of the cells it may insert; as `ids` if `None`.
    """
    cell_id = st.sampled_from(list(ids))

    def op(name: str, **members: st.SearchStrategy[object]) -> st.SearchStrategy[Json]:
        fixed = {"op": st.just(name), "cell_id": cell_id, **members}
        return st.fixed_dictionaries(fixed, optional={"if_present": st.booleans()})

    insert = st.fixed_dictionaries(
        {
            "op": st.just("insert_cell"),
            "cell_id": cell_id if new_ids is None else new_ids,
            "cell_type": _TYPES,
            "source": text(),
        },
        optional={"index": _SMALL},
    )
    metadata = st.fixed_dictionaries(
        {"op": st.just("set_metadata"), "key": st.sampled_from(["k", "notebook_metadata", "é"]), "value": text(4)}
    )
    replace = {"op": st.just("replace_output"), "cell_id": cell_id, "index": _SMALL, "output": text(3)}
    splice = {"op": st.just("splice_outputs"), "cell_id": cell_id, "index": _SMALL, "delete": _SMALL}
    return st.one_of(
        insert,
        insert,
        op("delete_cell"),
        op("move_cell", index=_SMALL),
        op("set_source", source=text()),
        op("splice_source", index=_SMALL, delete=st.integers(0, 2), insert=text(3)),
        op("splice_source", index=_SMALL, delete=_SMALL, insert=text(3)),
        op("set_cell_type", cell_type=_TYPES),
        op("append_outputs", outputs=_OUTPUTS),
        st.fixed_dictionaries(replace, optional={"expect": text(1)}),
        st.fixed_dictionaries({**splice, "outputs": _OUTPUTS}, optional={"expect": _OUTPUTS}),
        op("clear_outputs"),
        op("set_execution_count", execution_count=st.one_of(st.none(), st.integers(0, 2**53))),
        metadata,
    )


def edits(ids: Sequence[str] = MODEL_IDS, max_size: int = 3) -> st.SearchStrategy[list[Json]]:
    """Operations that are applied as one change."""
    return st.lists(operation(ids), min_size=1, max_size=max_size)
