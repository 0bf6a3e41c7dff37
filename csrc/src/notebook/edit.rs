//! Storey 1: applying edits to the document, as one change or not at all.

use std::collections::HashMap;

use automerge::hydrate;
use automerge::transaction::{Transactable, Transaction};
use automerge::{ObjId, ObjType, ReadDoc, ScalarValue, ROOT};

use super::rows::{object, ref_str, scalar_str, Row, Rows};
use super::{text, EditError, Notebook, Op};
use crate::replica::{check_own, LimitExceeded, ENCODING};

impl Notebook {
    /// Applies edits in their order, as one change. If one of them fails the document is as before.
    ///
    /// False if they changed nothing; then no change is made and the heads stay the same.
    pub fn edit(&mut self, ops: &[Op]) -> Result<bool, EditError> {
        if ops.is_empty() {
            return Ok(false);
        }
        let joined = !self.is_empty();
        let mut tx = self.doc.transaction();
        let mut editor = Editor { tx: &mut tx, rows: &mut self.rows, joined, moved: false };
        let result = editor.apply_all(ops).and_then(|()| Ok(check_own(editor.tx.pending_ops())?));
        let moved = editor.moved;
        match result {
            Ok(()) => Ok(tx.commit().0.is_some()),
            Err(error) => {
                tx.rollback();
                if moved {
                    self.rows = Rows::build(&self.doc);
                }
                Err(error)
            }
        }
    }
}

impl From<LimitExceeded> for EditError {
    fn from(limit: LimitExceeded) -> Self {
        Self::BadOp(limit.to_string())
    }
}

/// One transaction and the order of cells, which follows it.
struct Editor<'a, 'd> {
    tx: &'a mut Transaction<'d>,
    rows: &'a mut Rows,
    /// False while the replica is still empty.
    joined: bool,
    /// True once `rows` differs from what it was.
    moved: bool,
}

type Done = Result<(), EditError>;

/// A cell to be made, of an [`Op::InsertCell`].
struct NewCell<'a> {
    id: &'a str,
    cell_type: &'a str,
    source: &'a str,
    index: Option<usize>,
}

impl<'a> NewCell<'a> {
    fn of(op: &'a Op) -> Option<Self> {
        match op {
            Op::InsertCell { cell_id, cell_type, source, index } => {
                Some(Self { id: cell_id, cell_type, source, index: *index })
            }
            // A new cell cannot be missing.
            Op::IfPresent(op) => Self::of(op),
            _ => None,
        }
    }

    /// The map of the cell. The engine writes the keys sorted; their order means nothing.
    fn content(&self) -> hydrate::Value {
        HashMap::from([
            ("id", self.id.into()),
            ("cell_type", self.cell_type.into()),
            ("source", hydrate::Value::text(ENCODING, self.source)),
            ("execution_count", "null".into()),
            ("outputs", hydrate::Value::list()),
        ])
        .into()
    }
}

impl Editor<'_, '_> {
    fn apply_all(&mut self, mut ops: &[Op]) -> Done {
        while let Some(op) = ops.first() {
            let cells: Vec<NewCell> = ops.iter().map_while(NewCell::of).collect();
            if cells.is_empty() {
                self.apply(op)?;
                ops = &ops[1..];
            } else {
                self.insert_cells(&cells)?;
                ops = &ops[cells.len()..];
            }
        }
        Ok(())
    }

    fn apply(&mut self, op: &Op) -> Done {
        match op {
            Op::InsertCell { .. } => {
                let cell: Vec<NewCell> = NewCell::of(op).into_iter().collect();
                self.insert_cells(&cell)
            }
            Op::DeleteCell { cell_id } => self.delete_cell(cell_id),
            Op::MoveCell { cell_id, index } => self.move_cell(cell_id, *index),
            Op::SetSource { cell_id, source } => {
                let text = self.source(cell_id)?;
                Ok(text::update(self.tx, &text, source)?)
            }
            Op::SpliceSource { cell_id, index, delete, insert } => {
                self.splice_source(cell_id, *index, *delete, insert)
            }
            Op::SetCellType { cell_id, cell_type } => {
                let cell = self.cell(cell_id)?;
                self.set(&cell, "cell_type", cell_type)
            }
            Op::AppendOutputs { cell_id, outputs } => self.append_outputs(cell_id, outputs),
            Op::ReplaceOutput { cell_id, index, output, expect } => {
                self.replace_output(cell_id, *index, output, expect.as_deref())
            }
            Op::SpliceOutputs { cell_id, index, delete, outputs, expect } => {
                self.splice_outputs(cell_id, *index, *delete, outputs, expect.as_deref())
            }
            Op::ClearOutputs { cell_id } => self.clear_outputs(cell_id),
            Op::SetExecutionCount { cell_id, execution_count } => {
                let cell = self.cell(cell_id)?;
                let text = execution_count.map_or_else(|| "null".to_owned(), |n| n.to_string());
                self.set(&cell, "execution_count", &text)
            }
            Op::SetMetadata { key, value } => {
                let metadata = self.root("metadata", ObjType::Map)?;
                self.set(&metadata, key, value)
            }
            Op::IfPresent(op) => match self.apply(op) {
                Err(EditError::CellNotFound(_)) => Ok(()),
                other => other,
            },
        }
    }

    /// Inserts cells. Those that come to stand side by side are one splice: that makes filling an
    /// empty room from a file many times faster than a cell at a time.
    fn insert_cells(&mut self, cells: &[NewCell<'_>]) -> Done {
        let list = self.root("cells", ObjType::List)?;
        let mut first = 0;
        let mut content = Vec::new();
        for cell in cells {
            if self.rows.find(cell.id).is_some() {
                let text = format!("cell id in use: {}", cell.id);
                return Err(EditError::BadOp(text));
            }
            let place = self.rows.place(cell.index.unwrap_or(usize::MAX));
            if place != first + content.len() {
                self.splice_cells(&list, first, std::mem::take(&mut content))?;
                first = place;
            }
            content.push(cell.content());
            // Its object is known only after the splice.
            self.place(place, cell.id, ROOT);
        }
        self.splice_cells(&list, first, content)
    }

    /// Inserts cells whose rows are in place already and gives the rows their objects.
    fn splice_cells(&mut self, list: &ObjId, first: usize, content: Vec<hydrate::Value>) -> Done {
        let places = first..first + content.len();
        self.tx.splice(list, first, 0, content)?;
        for item in self.tx.list_range(list, places) {
            self.rows.rows[item.index].cell = item.id();
        }
        Ok(())
    }

    fn delete_cell(&mut self, id: &str) -> Done {
        let (list, place) = self.find(id)?;
        self.tx.delete(&list, place)?;
        self.moved = true;
        self.rows.rows.remove(place);
        Ok(())
    }

    fn move_cell(&mut self, id: &str, index: usize) -> Done {
        let (list, from) = self.find(id)?;
        let row = self.rows.rows.remove(from);
        let to = self.rows.place(index);
        if to == from {
            self.rows.rows.insert(from, row);
            return Ok(());
        }
        self.moved = true;
        // A copy of everything in the cell, also of keys this version does not know.
        let content: hydrate::Value = self.tx.hydrate(&row.cell, None)?;
        self.tx.delete(&list, from)?;
        let cell = self.tx.batch_create_object(&list, to, &content, true)?;
        self.place(to, id, cell);
        Ok(())
    }

    fn splice_source(&mut self, id: &str, index: usize, delete: usize, insert: &str) -> Done {
        let text = self.source(id)?;
        let length = self.tx.length(&text);
        if index > length || delete > length - index {
            return Err(EditError::BadOp(format!(
                "{delete} code points at {index} are beyond the source of {length}"
            )));
        }
        // `delete` is at most the length of a text in memory, which fits.
        self.tx.splice_text(&text, index, delete as isize, insert)?;
        Ok(())
    }

    fn append_outputs(&mut self, id: &str, outputs: &[String]) -> Done {
        let cell = self.cell(id)?;
        if outputs.is_empty() {
            return Ok(());
        }
        let list = self.outputs(&cell)?;
        let end = self.tx.length(&list);
        let values = outputs.iter().map(ScalarValue::from);
        self.tx.splice(&list, end, 0, values)?;
        Ok(())
    }

    fn replace_output(&mut self, id: &str, index: usize, output: &str, expect: Option<&str>) -> Done {
        let cell = self.cell(id)?;
        let found = object(self.tx, &cell, "outputs", ObjType::List).and_then(|list| {
            let (place, old) = self.visible(&list).nth(index)?;
            Some((list, place, old))
        });
        let Some((list, place, old)) = found else {
            return Err(EditError::BadOp(format!("no output {index} in {id}")));
        };
        if expect.is_some_and(|expect| expect != old) {
            return Err(EditError::BadOp(format!("output {index} of {id} is not what was expected")));
        }
        if old != output {
            self.tx.put(&list, place, output)?;
        }
        Ok(())
    }

    fn splice_outputs(
        &mut self,
        id: &str,
        index: usize,
        delete: usize,
        outputs: &[String],
        expect: Option<&[String]>,
    ) -> Done {
        let cell = self.cell(id)?;
        let list = self.outputs(&cell)?;
        let mut visible = self.visible(&list).skip(index);
        let gone: Vec<(usize, String)> = visible.by_ref().take(delete).collect();
        let next = visible.next();
        drop(visible);
        let seen = || self.visible(&list).count();
        if gone.len() < delete || (delete == 0 && next.is_none() && index != seen()) {
            return Err(EditError::BadOp(format!("no {delete} outputs at {index} in {id}")));
        }
        if expect.is_some_and(|expect| !gone.iter().map(|(_, old)| old).eq(expect)) {
            return Err(EditError::BadOp(format!(
                "the outputs at {index} of {id} are not what was expected"
            )));
        }
        if gone.iter().map(|(_, old)| old).eq(outputs) {
            return Ok(());
        }
        let first = gone.first().or(next.as_ref()).map_or_else(|| self.tx.length(&list), |(place, _)| *place);
        // What readers do not see stays where it is.
        for (place, _) in gone.iter().rev() {
            self.tx.delete(&list, *place)?;
        }
        self.tx.splice(&list, first, 0, outputs.iter().map(ScalarValue::from))?;
        Ok(())
    }

    /// The outputs readers see, each with its place in the list: elements that are not scalar strings
    /// are not counted.
    fn visible(&self, list: &ObjId) -> impl Iterator<Item = (usize, String)> + '_ {
        self.tx.list_range(list, ..).filter_map(|item| Some((item.index, ref_str(&item.value)?)))
    }

    fn clear_outputs(&mut self, id: &str) -> Done {
        let cell = self.cell(id)?;
        let outputs = object(self.tx, &cell, "outputs", ObjType::List);
        if outputs.is_none_or(|list| self.tx.length(&list) > 0) {
            self.tx.put_object(&cell, "outputs", ObjType::List)?;
        }
        self.set(&cell, "execution_count", "null")
    }

    /// Puts a scalar string, unless it is there already.
    fn set(&mut self, map: &ObjId, key: &str, value: &str) -> Done {
        if scalar_str(self.tx, map, key).as_deref() != Some(value) {
            self.tx.put(map, key, value)?;
        }
        Ok(())
    }

    /// The object of a cell.
    fn cell(&self, id: &str) -> Result<ObjId, EditError> {
        let found = self.rows.cell(id).cloned();
        found.ok_or_else(|| EditError::CellNotFound(id.to_owned()))
    }

    /// The list of cells and the place of a cell in it.
    fn find(&self, id: &str) -> Result<(ObjId, usize), EditError> {
        match (&self.rows.list, self.rows.find(id)) {
            (Some(list), Some(place)) => Ok((list.clone(), place)),
            _ => Err(EditError::CellNotFound(id.to_owned())),
        }
    }

    /// Notes that a cell stands at a place now.
    fn place(&mut self, place: usize, id: &str, cell: ObjId) {
        self.moved = true;
        let id = Some(id.to_owned());
        self.rows.rows.insert(place, Row { cell, id });
    }

    /// The Text of a cell; made if the cell has none that readers see.
    fn source(&mut self, id: &str) -> Result<ObjId, EditError> {
        let cell = self.cell(id)?;
        self.child(&cell, "source", ObjType::Text)
    }

    /// The list of outputs of a cell; made if the cell has none.
    fn outputs(&mut self, cell: &ObjId) -> Result<ObjId, EditError> {
        self.child(cell, "outputs", ObjType::List)
    }

    /// `/cells` or `/metadata`; made if a foreign document lacks it, but never in a replica that has
    /// not joined: it would hide the room's own (protocol 2, section 7.2).
    fn root(&mut self, key: &str, kind: ObjType) -> Result<ObjId, EditError> {
        if !self.joined {
            return Err(EditError::BadOp("the document has not been received yet".into()));
        }
        let found = self.child(&ROOT, key, kind)?;
        if kind == ObjType::List && self.rows.list.as_ref() != Some(&found) {
            self.moved = true;
            self.rows.list = Some(found.clone());
        }
        Ok(found)
    }

    fn child(&mut self, map: &ObjId, key: &str, kind: ObjType) -> Result<ObjId, EditError> {
        match object(self.tx, map, key, kind) {
            Some(found) => Ok(found),
            None => Ok(self.tx.put_object(map, key, kind)?),
        }
    }
}
