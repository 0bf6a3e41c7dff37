//! Storey 1: reading cells.
//!
//! Deviations from the schema are read as the table of protocol 2, section 7.2, defines.

use std::collections::HashMap;

use automerge::iter::{DocItem, MapRangeItem};
use automerge::{ObjId, ObjType, ReadDoc, ValueRef};
use serde_json::{json, Value};

use super::rows::{object, ref_str, scalar_str};
use super::Notebook;

/// One cell as readers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// The id, unique unless two peers moved the cell at the same time.
    pub id: String,
    /// `code`, `markdown` or `raw`; anything else is passed on.
    pub cell_type: String,
    /// The source text.
    pub source: String,
    /// The execution count; none if it is `null` or unreadable.
    pub execution_count: Option<i64>,
    /// The stored strings: nbformat output JSON or the hash of a manifest.
    pub outputs: Vec<String>,
}

impl Cell {
    /// The cell as the C ABI shows it.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "cell_type": self.cell_type,
            "source": self.source,
            "execution_count": self.execution_count,
            "outputs": self.outputs,
        })
    }
}

impl Notebook {
    /// All visible cells in order, read in one pass over the document.
    ///
    /// Finding an object costs more than reading it, so this is about twice as fast as asking for each
    /// cell. The engine visits parents before their children.
    pub fn cells(&self) -> Vec<Cell> {
        let Some(list) = &self.rows.list else {
            return Vec::new();
        };
        let mut cells = Vec::with_capacity(self.rows.rows.len());
        let mut parts = HashMap::with_capacity(3 * self.rows.rows.len());
        for (id, cell) in self.rows.visible() {
            parts.insert(cell.clone(), Part::Cell(cells.len()));
            cells.push(Cell { id: id.to_owned(), ..Cell::default() });
        }
        for found in self.doc.iter_at(list, None) {
            match (parts.get(&*found.obj), found.item) {
                (Some(Part::Cell(n)), DocItem::Map(item)) => {
                    let n = *n;
                    match scalar_or_child(&mut cells[n], &item) {
                        Some(Child::Source) => parts.insert(item.id(), Part::Source(n)),
                        Some(Child::Outputs) => parts.insert(item.id(), Part::Outputs(n)),
                        None => None,
                    };
                }
                (Some(Part::Source(n)), DocItem::Text(span)) => {
                    cells[*n].source.push_str(span.as_str());
                }
                (Some(Part::Outputs(n)), DocItem::List(item)) => {
                    cells[*n].outputs.extend(ref_str(&item.value));
                }
                _ => {}
            }
        }
        cells
    }

    /// The first cell with this id.
    pub fn cell(&self, id: &str) -> Option<Cell> {
        Some(self.read(id, self.rows.cell(id)?))
    }

    /// The ids of all visible cells in order.
    pub fn cell_ids(&self) -> Vec<String> {
        self.rows.visible().map(|(id, _)| id.to_owned()).collect()
    }

    /// The source of a cell; none if there is no such cell, empty if it has no readable source.
    pub fn source(&self, id: &str) -> Option<String> {
        let cell = self.rows.cell(id)?;
        Some(
            object(&self.doc, cell, "source", ObjType::Text)
                .map_or_else(String::new, |text| self.text(&text)),
        )
    }

    /// The type of a cell; none if there is no such cell, empty if it has no readable type.
    pub fn cell_type(&self, id: &str) -> Option<String> {
        let cell = self.rows.cell(id)?;
        Some(scalar_str(&self.doc, cell, "cell_type").unwrap_or_default())
    }

    /// The stored output strings of a cell; none if there is no such cell.
    pub fn outputs(&self, id: &str) -> Option<Vec<String>> {
        let cell = self.rows.cell(id)?;
        Some(
            object(&self.doc, cell, "outputs", ObjType::List)
                .map_or_else(Vec::new, |list| self.elements(&list)),
        )
    }

    /// The execution count of a cell as stored, JSON text; none if there is no such cell or no such
    /// string in it.
    pub fn execution_count_text(&self, id: &str) -> Option<String> {
        scalar_str(&self.doc, self.rows.cell(id)?, "execution_count")
    }

    fn read(&self, id: &str, cell: &ObjId) -> Cell {
        let mut read = Cell { id: id.to_owned(), ..Cell::default() };
        for item in self.doc.map_range(cell, ..) {
            match scalar_or_child(&mut read, &item) {
                Some(Child::Source) => read.source = self.text(&item.id()),
                Some(Child::Outputs) => read.outputs = self.elements(&item.id()),
                None => {}
            }
        }
        read
    }

    fn text(&self, text: &ObjId) -> String {
        // The object was just found in the same document, so this cannot fail.
        self.doc.text(text).unwrap_or_default()
    }

    fn elements(&self, list: &ObjId) -> Vec<String> {
        self.doc.list_range(list, ..).filter_map(|item| ref_str(&item.value)).collect()
    }
}

/// What an object met on the way through the document is part of: the cell of this number.
enum Part {
    Cell(usize),
    Source(usize),
    Outputs(usize),
}

/// A member of a cell that is an object of its own.
enum Child {
    Source,
    Outputs,
}

/// Reads one member of a cell's map: a scalar into the cell, an object as what it is to be read as.
/// Members that do not have the type of section 7.2 are left out.
fn scalar_or_child(cell: &mut Cell, item: &MapRangeItem<'_>) -> Option<Child> {
    match (item.key.as_ref(), &item.value) {
        ("cell_type", value) => cell.cell_type = ref_str(value).unwrap_or_default(),
        ("execution_count", value) => {
            cell.execution_count = ref_str(value).and_then(|text| count(&text));
        }
        ("source", ValueRef::Object(ObjType::Text)) => return Some(Child::Source),
        ("outputs", ValueRef::Object(ObjType::List)) => return Some(Child::Outputs),
        _ => {}
    }
    None
}

/// An execution count out of its JSON text.
fn count(text: &str) -> Option<i64> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::Op;

    #[test]
    fn counts() {
        assert_eq!(count("null"), None);
        assert_eq!(count("7"), Some(7));
        for odd in ["", "x", "7.0", "+7", "\"7\"", "07"] {
            assert_eq!(count(odd), None, "{odd}");
        }
    }

    #[test]
    fn reading_one_and_all() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook
            .edit(&[
                Op::insert_cell("b", "markdown", "# é", None),
                Op::insert_cell("a", "code", "1", Some(0)),
                Op::AppendOutputs { cell_id: "a".into(), outputs: vec!["{}".into()] },
                Op::SetExecutionCount { cell_id: "a".into(), execution_count: Some(3) },
            ])
            .unwrap();
        let cells = notebook.cells();
        assert_eq!(notebook.cell_ids(), ["a", "b"]);
        assert_eq!(cells.len(), 2);
        for cell in &cells {
            assert_eq!(notebook.cell(&cell.id).as_ref(), Some(cell));
            assert_eq!(notebook.source(&cell.id).as_ref(), Some(&cell.source));
            assert_eq!(notebook.outputs(&cell.id).as_ref(), Some(&cell.outputs));
            assert_eq!(notebook.cell_type(&cell.id).as_ref(), Some(&cell.cell_type));
        }
        assert_eq!(notebook.execution_count_text("a").as_deref(), Some("3"));
        assert_eq!(
            cells[0].to_json().to_string(),
            r#"{"id":"a","cell_type":"code","source":"1","execution_count":3,"outputs":["{}"]}"#
        );
        assert_eq!(cells[1].to_json()["execution_count"], Value::Null);
        assert_eq!(notebook.cell("c"), None);
        assert_eq!(notebook.source("c"), None);
        assert_eq!(notebook.outputs("c"), None);
        assert_eq!(notebook.cell_type("c"), None);
    }
}
