//! Storey 1: the order of the cells, kept beside the document.
//!
//! The document finds a cell by walking `/cells` and reading each id: far too slow to do for every
//! edit of a large notebook. [`Rows`] remembers the object and the id of every element of the list.
//! It changes with each edit of ours, and is refreshed when a peer's change touches the list or an id.

use std::collections::{BTreeSet, HashMap};

use automerge::iter::DocItem;
use automerge::{Automerge, ObjId, ObjType, ReadDoc, ScalarValueRef, Value, ValueRef, ROOT};

/// One element of `/cells`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// The object of the element.
    pub cell: ObjId,
    /// The id of the cell; none if readers must not see it (protocol 2, section 7.2: not a map, or
    /// its id is missing or not a scalar string).
    pub id: Option<String>,
}

/// All elements of `/cells`, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    /// The list object; none if `/cells` is missing or not a list.
    pub list: Option<ObjId>,
    /// Its elements, invisible ones too: the index here is the index in the list.
    pub rows: Vec<Row>,
}

impl Rows {
    /// Reads the list from the document, in one pass over it: looking up the id in one cell after the other would take
    /// as long as loading the document.
    pub fn build(doc: &Automerge) -> Self {
        let Some(list) = object(doc, &ROOT, "cells", ObjType::List) else {
            return Self::default();
        };
        let mut rows: Vec<Row> = Vec::new();
        let mut places = HashMap::new();
        for found in doc.iter_at(&list, None) {
            match found.item {
                DocItem::List(item) if *found.obj == list => {
                    if matches!(item.value, ValueRef::Object(ObjType::Map)) {
                        places.insert(item.id(), rows.len());
                    }
                    rows.push(Row { cell: item.id(), id: None });
                }
                DocItem::Map(item) if item.key == "id" => {
                    if let Some(place) = places.get(&*found.obj) {
                        rows[*place].id = ref_str(&item.value);
                    }
                }
                _ => {}
            }
        }
        Self { list: Some(list), rows }
    }

    /// Brings the rows up to date after a change of the list; of cells that were in it, the id only if `renamed`. The
    /// places of those that were not.
    pub fn refresh(&mut self, doc: &Automerge, renamed: bool) -> BTreeSet<usize> {
        let old = std::mem::take(self);
        let mut arrived = BTreeSet::new();
        let Some(list) = object(doc, &ROOT, "cells", ObjType::List) else { return arrived };
        let mut known: HashMap<ObjId, Option<String>> =
            old.rows.into_iter().map(|row| (row.cell, row.id)).collect();
        for item in doc.list_range(&list, ..) {
            let cell = item.id();
            let old = known.remove(&cell);
            if old.is_none() {
                arrived.insert(item.index);
            }
            let id = match old {
                Some(id) if !renamed => id,
                _ if matches!(item.value, ValueRef::Object(ObjType::Map)) => scalar_str(doc, &cell, "id"),
                _ => None,
            };
            self.rows.push(Row { cell, id });
        }
        self.list = Some(list);
        arrived
    }

    /// The index in the list of the first cell with this id.
    ///
    /// A plain scan: comparing ten thousand short strings costs less than one change, and unlike a
    /// map it needs no repair when cells move.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.id.as_deref() == Some(id))
    }

    /// The object of the first cell with this id.
    pub fn cell(&self, id: &str) -> Option<&ObjId> {
        self.find(id).map(|index| &self.rows[index].cell)
    }

    /// The index in the list where the `n`-th visible cell is, or the end if there are fewer.
    pub fn place(&self, n: usize) -> usize {
        self.rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.id.is_some())
            .nth(n)
            .map_or(self.rows.len(), |(index, _)| index)
    }

    /// The rows of the cells readers see.
    pub fn visible(&self) -> impl Iterator<Item = (&str, &ObjId)> {
        self.rows.iter().filter_map(|row| Some((row.id.as_deref()?, &row.cell)))
    }
}

/// The object of type `kind` under a key of a map; none if there is something else or nothing.
pub(super) fn object(doc: &impl ReadDoc, map: &ObjId, key: &str, kind: ObjType) -> Option<ObjId> {
    match doc.get(map, key) {
        Ok(Some((Value::Object(found), id))) if found == kind => Some(id),
        _ => None,
    }
}

/// The scalar string under a key of a map; none if there is something else or nothing.
pub(super) fn scalar_str(doc: &impl ReadDoc, map: &ObjId, key: &str) -> Option<String> {
    match doc.get(map, key) {
        Ok(Some((value, _))) => value.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The text of a value met while iterating, if it is a scalar string.
pub(super) fn ref_str(value: &ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Scalar(ScalarValueRef::Str(text)) => Some(text.to_string()),
        _ => None,
    }
}
